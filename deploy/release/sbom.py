"""Write the bill of materials of an installation: the packages that `tactful[all]` needs.

Usage: ``python -m deploy.release.sbom FILE``. The tool cyclonedx-py describes the whole environment
in CycloneDX 1.6; packages for development are left out of its answer, which is validated before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from deploy.release.closure import closure, installed
from deploy.release.locks import read_pins
from deploy.release.requirements import OURS, ROOT
from packaging.utils import canonicalize_name

Bom = dict[str, Any]


def describe_environment(project: Path) -> Bom:
    """Return the bill of materials of this interpreter's environment, in the form of CycloneDX 1.6.

    Raises:
        CalledProcessError: The tool failed; its message is the error output.
    """
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    command += ["--pyproject", str(project), "--mc-type", "application", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    bom: Bom = json.loads(done.stdout)
    return bom


def keep_components(bom: Bom, names: Collection[str]) -> Bom:
    """Return a bill of materials with the components of some names, and their dependencies.

    Args:
        bom: The bill of materials.
        names: Normalised names of the components that stay.
    """
    kept = [it for it in bom["components"] if canonicalize_name(it["name"]) in names]
    references = {it["bom-ref"] for it in kept} | {bom["metadata"]["component"]["bom-ref"]}
    dependencies = [
        {**it, "dependsOn": [to for to in it.get("dependsOn", ()) if to in references]}
        for it in bom["dependencies"]
        if it["ref"] in references
    ]
    return {**bom, "components": kept, "dependencies": dependencies}


def add_hashes(bom: Bom, locked: Mapping[tuple[str, str], Iterable[str]]) -> Bom:
    """Return a bill of materials that names the hashes of the files that a lock allows.

    Args:
        bom: The bill of materials.
        locked: Hashes in the form `sha256:…` by normalised name and version.
    """
    components = []
    for component in bom["components"]:
        key = canonicalize_name(component["name"]), component["version"]
        files = [
            {
                "type": "distribution",
                "url": f"https://pypi.org/project/{component['name']}/{component['version']}/",
                "hashes": [{"alg": "SHA-256", "content": it.partition(":")[2]}],
            }
            for it in locked.get(key, ())
        ]
        references = component.get("externalReferences", []) + files
        components.append({**component, "externalReferences": references} if files else component)
    return {**bom, "components": components}


def complete(bom: Bom, needed: Collection[str]) -> list[str]:
    """Return the needed packages that a bill of materials lacks."""
    listed = {canonicalize_name(it["name"]) for it in bom["components"]}
    return sorted(set(needed) - listed - {"tactful"})


def make_bom(root: Path, packages: Mapping[str, Distribution]) -> Bom:
    """Return the bill of materials of `tactful[all]` as it is installed here.

    Raises:
        RuntimeError: The tool left a needed package out.
    """
    needed = closure("tactful", ["all"], packages)
    bom = keep_components(describe_environment(root / "pyproject.toml"), needed - {"tactful"})
    if missing := complete(bom, needed):
        raise RuntimeError(f"The bill of materials lacks {', '.join(missing)}")
    locks = root / "deploy" / "locks"
    pins = [it for name in ("all.txt", "torch.txt") for it in read_pins((locks / name).read_text())]
    return add_hashes(bom, {(pin.name, str(pin.version)): pin.hashes for pin in pins})


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="file to write, in JSON")
    file: Path = parser.parse_args().file
    bom = make_bom(ROOT, installed())
    file.write_text(json.dumps(bom, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    others = len(bom["components"]) - sum(it["name"] in OURS for it in bom["components"])
    print(f"{file}: {others} packages of others")
    return 0


if __name__ == "__main__":
    sys.exit(main())
