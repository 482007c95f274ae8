"""Look the locked versions up in the databases of known vulnerabilities.

Usage: ``python -m deploy.release.vulnerabilities``. The tool pip-audit asks PyPI, and OSV where
PyPI says nothing. Without data the answer is a note and the exit code 0, with a vulnerability 1.
The tool also answers "none found" where it looked nothing up: such an answer counts as no data.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from deploy.release.licences import POLICY
from deploy.release.locks import Pin, read_pins
from deploy.release.requirements import ROOT, applies

_SERVICES = ("pypi", "osv")
_TIMEOUT_S = 300


@dataclass(frozen=True)
class Outcome:
    """The result of a look-up.

    Attributes:
        found: Lines on vulnerabilities that nobody accepted.
        judged: Number of packages that were looked up.
        unknown: Names of the packages on which there were no data.
    """

    found: Sequence[str]
    judged: int
    unknown: Sequence[str]


def audit(pins: Sequence[Pin], service: str, python: str = sys.executable) -> dict[str, Any] | None:
    """Return the answer of pip-audit on some versions, or None if the service cannot be reached.

    Args:
        pins: Entries of locks, each with one version.
        service: Name of the database, `pypi` or `osv`.
        python: Interpreter of the environment that has the tool.
    """
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "requirements.txt")
        listed.write_text("".join(f"{it.name}=={it.version}\n" for it in pins), encoding="utf-8")
        command = [python, "-m", "pip_audit", "--requirement", str(listed), "--no-deps"]
        command += ["--disable-pip", "--format", "json", "--progress-spinner", "off"]
        command += ["--vulnerability-service", service]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
            answer: dict[str, Any] = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, json.JSONDecodeError):
            return None
    return answer


def judge(answer: Mapping[str, Any], accepted: Mapping[str, Any], today: date) -> Outcome:
    """Return what an answer of pip-audit says.

    Args:
        answer: The answer, in the tool's JSON.
        accepted: Reason and last day by identifier of an advisory.
        today: The day; later than the last day an advisory is no longer accepted.
    """
    found, unknown = [], []
    packages = answer["dependencies"]
    for package in packages:
        if "skip_reason" in package:
            unknown.append(package["name"])
        for advisory in package.get("vulns", ()):
            names = {advisory["id"], *advisory.get("aliases", ())}
            known = [accepted[name] for name in names if name in accepted]
            if any(today <= it["until"] for it in known):
                continue
            remedy = ", ".join(advisory.get("fix_versions", ())) or "no fixed version"
            found.append(f"{package['name']} {package['version']}: {advisory['id']}: {remedy}")
    return Outcome(found, len(packages) - len(unknown), unknown)


def read_accepted(path: Path = POLICY) -> dict[str, Any]:
    """Return the accepted advisories of the rules."""
    rules: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))["vulnerabilities"]["accepted"]
    return rules


def main() -> int:
    """Run the command line; return the exit code."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    python = "{}.{}".format(*sys.version_info)
    texts = [(ROOT / "deploy/locks" / name).read_text("utf-8") for name in ("all.txt", "torch.txt")]
    pins = [pin for text in texts for pin in read_pins(text) if applies(pin.requirement, python)]
    today = datetime.now(UTC).date()
    for service in _SERVICES:
        answer = audit(pins, service)
        outcome = judge(answer or {"dependencies": []}, read_accepted(), today)
        if outcome.judged or outcome.found:
            break
    else:
        print("skipped: no database of vulnerabilities can be reached from here")
        return 0
    for line in outcome.found:
        print(line, file=sys.stderr)
    print(f"{outcome.judged} packages looked up, {len(outcome.found)} vulnerabilities", end="")
    print(f"; no data on {', '.join(outcome.unknown)}" if outcome.unknown else "")
    return int(bool(outcome.found))


if __name__ == "__main__":
    sys.exit(main())
