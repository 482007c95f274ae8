"""Read the requirements of both distributions and of the groups, and evaluate their markers."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13")
OURS = ("tactful", "tactful-device")


def read_project(root: Path = ROOT) -> dict[str, Any]:
    """Return the parsed `pyproject.toml` of a checkout."""
    return tomllib.loads((root / "pyproject.toml").read_text("utf-8"))


def requirements_of(
    root: Path, extras: Iterable[str] = (), groups: Iterable[str] = ()
) -> list[Requirement]:
    """Return what the base, some extras and some groups of a checkout require.

    Requirements on the two distributions of the checkout are replaced by those that they have.

    Args:
        root: Folder of the checkout.
        extras: Names of extras of `tactful`.
        groups: Names of dependency groups.

    Raises:
        KeyError: An extra or a group has no table.
    """
    whole = read_project(root)
    part = tomllib.loads((root / "device" / "pyproject.toml").read_text("utf-8"))
    projects = {"tactful": whole["project"], "tactful-device": part["project"]}
    found = {}
    for requirement in _expand("tactful", set(extras), projects):
        found[str(requirement)] = requirement
    for group in groups:
        for text in whole["dependency-groups"][group]:
            found[str(Requirement(text))] = Requirement(text)
    return list(found.values())


def _expand(name: str, extras: set[str], projects: Mapping[str, Any]) -> Iterator[Requirement]:
    project = projects[name]
    texts = list(project["dependencies"])
    for extra in sorted(extras):
        texts += project["optional-dependencies"][extra]
    for text in texts:
        requirement = Requirement(text)
        if requirement.name in projects:
            yield from _expand(requirement.name, requirement.extras, projects)
        else:
            yield requirement


def applies(requirement: Requirement, python: str) -> bool:
    """Return whether the marker of a requirement holds on Linux with a version of Python."""
    return requirement.marker is None or requirement.marker.evaluate(linux(python))


def linux(python: str) -> dict[str, str]:
    """Return the environment of markers of a version of CPython on Linux with x86-64."""
    return {
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python if python.count(".") > 1 else f"{python}.0",
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "extra": "",
    }


def name_of(requirement: Requirement) -> str:
    """Return the normalised name of the package that a requirement names."""
    return canonicalize_name(requirement.name)
