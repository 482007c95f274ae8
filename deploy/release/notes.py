"""Write the notes of a release from the changelog, and compare the places that name the version.

Usage: ``python -m deploy.release.notes [FILE]``. The version stands in `pyproject.toml`; where the
present commit has a tag of a version, both have to agree, and without tags of git it is enough.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from deploy.release.requirements import ROOT, read_project

_TITLE = re.compile(r"^## \[([^\]]+)\].*$", re.MULTILINE)


def version_of(root: Path) -> str:
    """Return the version of a checkout.

    Raises:
        ValueError: The present commit has a tag of another version.
    """
    version: str = read_project(root)["project"]["version"]
    tags = [tag.removeprefix("v") for tag in tags_of(root) if re.fullmatch(r"v\d.*", tag)]
    if tags and version not in tags:
        raise ValueError(f"pyproject.toml says {version}, the tag of this commit {tags[0]}")
    return version


def tags_of(root: Path) -> list[str]:
    """Return the tags of the present commit; none where there is no git."""
    try:
        command = ["git", "-C", str(root), "tag", "--points-at", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return []
    return done.stdout.split() if done.returncode == 0 else []


def other_versions(root: Path, version: str) -> list[str]:
    """Return the places that name another version than the given one."""
    device = tomllib.loads((root / "device" / "pyproject.toml").read_text("utf-8"))["project"]
    web = json.loads((root / "sdk" / "web" / "package.json").read_text("utf-8"))
    lock = json.loads((root / "sdk" / "web" / "package-lock.json").read_text("utf-8"))
    flower = tomllib.loads((root / "federated" / "pyproject.toml").read_text("utf-8"))["project"]
    named = {
        "device/pyproject.toml": device["version"],
        "federated/pyproject.toml": flower["version"],
        "sdk/web/package.json": web["version"],
        "sdk/web/package-lock.json": lock["packages"][""]["version"],
    }
    for extra, texts in read_project(root)["project"]["optional-dependencies"].items():
        for text in texts:
            if match := re.fullmatch(r"tactful-device(?:\[\w+\])?==(.+)", text):
                named[f"pyproject.toml, extra {extra}"] = match[1]
    for text in ("deploy/helm/tactful/images.env", "sdk/web/README.md"):
        pattern = r"(?:=tactful(?:-flink)?:|tactful-web-)(\d[\w.]*?)(?=\.tgz|$)"
        for match in re.finditer(pattern, (root / text).read_text(), re.M):
            named[text] = match[1]
    return [f"{place}: {it} instead of {version}" for place, it in named.items() if it != version]


def notes_of(changelog: str, version: str) -> str:
    """Return the section of a changelog on a version, else the one on what is unreleased.

    Raises:
        ValueError: The changelog has neither, or the section is empty.
    """
    titles = list(_TITLE.finditer(changelog))
    for name in (version, "Unreleased"):
        for number, title in enumerate(titles):
            if title[1] == name:
                end = titles[number + 1].start() if number + 1 < len(titles) else len(changelog)
                if text := changelog[title.end() : end].strip():
                    return f"# tactful {version}\n\n{text}\n"
                raise ValueError(f"CHANGELOG.md: the section [{name}] is empty")
    raise ValueError(f"CHANGELOG.md has no section [{version}] and none [Unreleased]")


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "file", type=Path, nargs="?", help="file of the notes; none prints the version"
    )
    file: Path | None = parser.parse_args().file
    version = version_of(ROOT)
    if wrong := other_versions(ROOT, version):
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    if file is None:
        print(version)
    else:
        file.write_text(notes_of((ROOT / "CHANGELOG.md").read_text("utf-8"), version), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
