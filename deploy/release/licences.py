"""Check the licences of the packages that `tactful[all]` needs against a list of allowed ones.

Usage: ``python -m deploy.release.licences [--all] [--report FILE]``. The statement of a package is
its `License-Expression`, else its classifiers, else its field `License`. The rules are in
`policy.toml`; a package without a statement fails, as one with a licence that is not allowed does.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from deploy.release.closure import closure, installed
from deploy.release.requirements import OURS
from license_expression import ExpressionError, get_spdx_licensing
from packaging.utils import canonicalize_name

POLICY = Path(__file__).with_name("policy.toml")
_SPDX = get_spdx_licensing()


@dataclass(frozen=True)
class Policy:
    """The rules: identifiers, names of packages' own, statements and exceptions by package."""

    allowed: frozenset[str]
    names: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    accepted: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A line of the report: a package, its licence, and the problem or the reason, if any."""

    name: str
    version: str
    licence: str
    problem: str = ""
    reason: str = ""


def read_policy(path: Path = POLICY) -> Policy:
    """Return the rules of a file."""
    rules: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))["licences"]
    allowed = frozenset(str(_SPDX.parse(it, simple=True)) for it in rules["allowed"])
    return Policy(allowed, rules["names"], rules["packages"], rules["accepted"])


def statements(package: Distribution) -> list[str]:
    """Return what the metadata of a package says of its licence; none if it says nothing."""
    fields = package.metadata
    if "License-Expression" in fields:
        return [fields["License-Expression"]]
    classifiers = [it for it in fields.get_all("Classifier") or () if it.startswith("License ::")]
    # Umbrella terms that name no licence.
    classifiers = [it for it in classifiers if it.count("::") > 1 or "Public Domain" in it]
    if classifiers:
        return classifiers
    text = next(iter(fields.get_all("License") or ("",))).strip()
    return [text] if text and "\n" not in text and len(text) < 100 else []


def judge(package: Distribution, policy: Policy) -> Row:
    """Return the licence of a package with the problem that the rules find in it."""
    name = canonicalize_name(package.name)
    stated = [policy.packages[name]] if name in policy.packages else statements(package)
    text = " AND ".join(f"({policy.names.get(it, it)})" for it in stated)
    shown = " AND ".join(policy.names.get(it, it) for it in stated) or "none"
    for pattern, reason in policy.accepted.items():
        if fnmatch(name, pattern):
            return Row(name, package.version, shown, reason=reason)
    if not stated:
        return Row(name, package.version, shown, "its metadata states no licence")
    try:
        expression = _SPDX.parse(text, validate=True)
    except ExpressionError:
        return Row(name, package.version, shown, "its licence is not known")
    problem = "" if _allows(expression, policy.allowed) else "its licence is not allowed"
    return Row(name, package.version, shown, problem)


def _allows(expression: Any, allowed: frozenset[str]) -> bool:
    if str(expression) in allowed:
        return True
    parts = [_allows(part, allowed) for part in getattr(expression, "args", ())]
    operator = getattr(expression, "operator", "")
    if "OR" in operator:
        return any(parts)
    return bool(parts) and "AND" in operator and all(parts)


def judge_all(packages: Iterable[Distribution], policy: Policy) -> list[Row]:
    """Return the rows of all packages but our own, by name."""
    rows = [judge(it, policy) for it in packages if canonicalize_name(it.name) not in OURS]
    return sorted(rows, key=lambda row: row.name)


def report(rows: Sequence[Row]) -> str:
    """Return the report as a Markdown table."""
    lines = ["# Licences of the packages that `tactful[all]` needs", ""]
    lines += ["| Package | Version | Licence | Note |", "|---|---|---|---|"]
    lines += [
        f"| {it.name} | {it.version} | {it.licence} | {it.problem or it.reason} |" for it in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="packages for development, too")
    parser.add_argument("--report", type=Path, help="file to write the report to, in Markdown")
    options = parser.parse_args()
    packages = installed()
    names = set(packages) if options.all else closure("tactful", ["all"], packages)
    rows = judge_all([packages[name] for name in names], read_policy())
    if options.report:
        options.report.write_text(report(rows), encoding="utf-8")
    wrong = [row for row in rows if row.problem]
    for row in wrong:
        print(f"{row.name} {row.version}: {row.problem}: {row.licence}", file=sys.stderr)
    if wrong:
        print(f"Judge them in {POLICY.name}: packages, names or accepted", file=sys.stderr)
    print(f"{len(rows)} packages, {len(wrong)} problems")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
