"""Find the installed packages that `tactful` with some extras needs, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def installed(path: Iterable[str] | None = None) -> dict[str, Distribution]:
    """Return the installed distributions by normalised name.

    Args:
        path: Folders to look in instead of those of this interpreter.
    """
    found = distributions() if path is None else distributions(path=list(path))
    by_name: dict[str, Distribution] = {}
    for distribution in found:
        by_name.setdefault(canonicalize_name(distribution.name), distribution)
    return by_name


def closure(root: str, extras: Iterable[str], packages: Mapping[str, Distribution]) -> set[str]:
    """Return the names of the packages that one with some extras needs here, itself included.

    Packages that are required but not installed are left out.

    Args:
        root: Name of the package.
        extras: Names of its extras.
        packages: Installed distributions by normalised name.
    """
    needed: dict[str, set[str]] = {}
    waiting = [(canonicalize_name(root), frozenset(extras))]
    while waiting:
        name, wanted = waiting.pop()
        if name not in packages or (name in needed and wanted <= needed[name]):
            continue
        needed.setdefault(name, set()).update(wanted)
        for text in packages[name].requires or ():
            requirement = Requirement(text)
            if _applies(requirement, {"", *needed[name]}):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return set(needed)


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    if requirement.marker is None:
        return True
    here = {key: str(value) for key, value in default_environment().items()}
    return any(requirement.marker.evaluate({**here, "extra": extra}) for extra in extras)
