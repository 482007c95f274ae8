"""Write and check the lock files: exact versions with hashes, for every supported Python.

Usage: ``python -m deploy.release.locks [--check | --installed]``; `scripts/lock` calls it.

    deploy/locks/all.txt    extra `all` with the groups `dev` and `docs`, without torch
    deploy/locks/torch.txt  torch of PyPI and what only it requires
    deploy/locks/demo.txt   extras `demo` and `dashboard`: the demo without its intent model

Torch is apart because its build depends on the machine: PyPI's brings CUDA, another index does not.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from deploy.release.requirements import OURS, PYTHONS, ROOT, applies, name_of, requirements_of
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

_TORCH = re.compile(r"(torch|triton|nvidia-.+|cuda-.+)")
# yattag, which cosmic-ray needs, is pure Python and has no wheel.
_COMPILE: tuple[str, ...] = (
    "--universal",
    "--generate-hashes",
    "--no-header",
    "--no-annotate",
    "--quiet",
)
_COMPILE += ("--python-version", PYTHONS[0], "--only-binary", ":all:", "--no-binary", "yattag")


@dataclass(frozen=True)
class Lock:
    """A lock file: its name, and what it is made from."""

    name: str
    extras: tuple[str, ...]
    groups: tuple[str, ...] = ()


LOCKS = (Lock("all.txt", ("all",), ("dev", "docs")), Lock("demo.txt", ("demo", "dashboard")))


@dataclass(frozen=True)
class Pin:
    """An entry of a lock: a requirement on one version, and its hashes."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The normalised name of the package."""
        return name_of(self.requirement)

    @property
    def version(self) -> Version:
        """The one version."""
        (specifier,) = self.requirement.specifier
        return Version(specifier.version)


class IndexSilent(Exception):
    """The package index gave no answer."""


def read_pins(text: str) -> list[Pin]:
    """Return the entries of a lock file.

    Raises:
        ValueError: An entry names no exact version.
    """
    pins = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        written, *options = re.split(r"\s+--hash=", line.strip())
        requirement = Requirement(written)
        if [it.operator for it in requirement.specifier] != ["=="]:
            raise ValueError(f"{written}: a lock names one version, as NAME==VERSION")
        pins.append(Pin(requirement, tuple(options)))
    return pins


def misfits(pins: Sequence[Pin], required: Iterable[Requirement]) -> list[str]:
    """Return the reasons for which a lock does not fit requirements; none if it fits.

    Args:
        pins: Entries of the lock.
        required: Direct requirements, with markers.
    """
    found = [f"{pin.requirement}: it has no hash" for pin in pins if not pin.hashes]
    wanted = list(required)
    for python in PYTHONS:
        locked: dict[str, Version] = {}
        for pin in pins:
            if not applies(pin.requirement, python):
                continue
            if locked.setdefault(pin.name, pin.version) != pin.version:
                found.append(f"{pin.name} has two versions on Python {python}")
        for requirement in wanted:
            version = locked.get(name_of(requirement))
            if not applies(requirement, python):
                continue
            if version is None:
                found.append(f"{requirement} is not in the lock for Python {python}")
            elif not requirement.specifier.contains(version, prereleases=True):
                found.append(f"{requirement} does not allow {version}, locked on Python {python}")
    return found


def not_locked(
    pins: Sequence[Pin], installed: Mapping[NormalizedName, str], python: str
) -> list[str]:
    """Return installed packages that a lock does not name with the same version.

    Args:
        pins: Entries of the lock.
        installed: Version by normalised name, as installed.
        python: Version of Python, as in `3.13` or `3.11.7`.
    """
    locked = {pin.name: pin.version for pin in pins if applies(pin.requirement, python)}
    ignored = {*OURS, "pip", "setuptools", "wheel"}
    return [
        f"{name} {version} is installed, {locked.get(name, 'nothing')} is locked"
        for name, version in sorted(installed.items())
        if name not in ignored
        and not _TORCH.fullmatch(name)
        and locked.get(name) != Version(version)
    ]


def compile_lock(lock: Lock, root: Path, preferred: str, constraints: str = "") -> str:
    """Resolve a lock on the package index and return its text, torch included.

    Args:
        lock: The lock.
        root: Folder of the checkout.
        preferred: Text of a lock whose versions are kept where they fit; empty for the newest.
        constraints: Text of a lock that bounds the versions.

    Raises:
        IndexSilent: The index gave no answer.
        RuntimeError: Nothing satisfies all requirements.
    """
    required = "\n".join(str(it) for it in requirements_of(root, lock.extras, lock.groups))
    with tempfile.TemporaryDirectory() as folder:
        output, bounds = Path(folder, "lock.txt"), Path(folder, "constraints.txt")
        output.write_text(preferred, encoding="utf-8")
        bounds.write_text("\n".join(str(pin.requirement) for pin in read_pins(constraints)))
        command = [sys.executable, "-m", "uv", "pip", "compile", *_COMPILE, "-"]
        command += ["--output-file", str(output), "--constraints", str(bounds)]
        done = subprocess.run(command, input=required, capture_output=True, text=True)
        if done.returncode == 0:
            return output.read_text(encoding="utf-8")
    if re.search(r"error sending request|Failed to fetch|Request failed|dns error", done.stderr):
        raise IndexSilent(done.stderr.strip().splitlines()[0])
    raise RuntimeError(f"{lock.name} cannot be resolved:\n{done.stderr}")


def split_torch(text: str) -> tuple[str, str]:
    """Divide the text of a lock into the part without torch and the part of torch."""
    rest: list[str] = []
    torch: list[str] = []
    for entry in re.split(r"(?m)^(?=[A-Za-z0-9])", text):
        name = re.match(r"[\w.-]+", entry)
        mine = name is not None and _TORCH.fullmatch(canonicalize_name(name[0]))
        (torch if mine else rest).append(entry)
    return "".join(rest), "".join(torch)


def write_locks(root: Path, folder: Path, *, keep: bool) -> None:
    """Write all lock files to a folder.

    Args:
        root: Folder of the checkout.
        folder: Folder of the lock files.
        keep: Keep the versions of the present files where they fit.
    """
    whole = ""
    for lock in LOCKS:
        names = (lock.name, "torch.txt") if not whole else (lock.name,)
        present = [path.read_text("utf-8") for name in names if (path := folder / name).exists()]
        text = compile_lock(lock, root, "".join(present) if keep else "", whole)
        rest, torch = split_torch(text)
        (folder / lock.name).write_text(_header(lock) + rest, encoding="utf-8")
        if not whole:
            whole = text
            (folder / "torch.txt").write_text(_TORCH_HEADER + torch, encoding="utf-8")


def _header(lock: Lock) -> str:
    made = f"extras {', '.join(lock.extras)}"
    if lock.groups:
        made += f"; groups {', '.join(lock.groups)}"
    return f"# Written by scripts/lock from pyproject.toml: {made}; without torch.\n"


_TORCH_HEADER = (
    "# Written by scripts/lock from pyproject.toml: torch of PyPI, with CUDA on Linux.\n"
)


def check_locks(root: Path, folder: Path) -> tuple[list[str], str]:
    """Compare the lock files with the requirements, then with a new resolution.

    Returns:
        What does not fit, and the reason for which the resolution was left out, if it was.
    """
    wrong = []
    torch = read_pins((folder / "torch.txt").read_text("utf-8"))
    for lock in LOCKS:
        pins = read_pins((folder / lock.name).read_text("utf-8"))
        required = requirements_of(root, lock.extras, lock.groups)
        needs_torch = any(name_of(it) == "torch" for it in required)
        wrong += [f"{lock.name}: {it}" for it in misfits(pins + torch * needs_torch, required)]
    if wrong:
        return wrong, ""
    with tempfile.TemporaryDirectory() as other:
        copy = Path(other)
        names = [*(lock.name for lock in LOCKS), "torch.txt"]
        for name in names:
            (copy / name).write_text((folder / name).read_text("utf-8"), encoding="utf-8")
        try:
            write_locks(root, copy, keep=True)
        except IndexSilent as error:
            return [], str(error)
        for name in names:
            before = {_key(pin) for pin in read_pins((folder / name).read_text("utf-8"))}
            after = {_key(pin) for pin in read_pins((copy / name).read_text("utf-8"))}
            wrong += [f"{name}: {text} is missing" for text in sorted(after - before)]
            wrong += [f"{name}: nothing requires {text}" for text in sorted(before - after)]
    return wrong, ""


def _key(pin: Pin) -> str:
    # Without hashes: an index gets files for more platforms at any time.
    return str(pin.requirement)


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="check that the locks fit")
    parser.add_argument("--keep", action="store_true", help="keep locked versions that still fit")
    parser.add_argument("--installed", action="store_true", help="compare with what is installed")
    options = parser.parse_args()
    folder = ROOT / "deploy" / "locks"
    if options.installed:
        installed = {canonicalize_name(it.name): it.version for it in distributions()}
        files = (folder / "all.txt", ROOT / "tests" / "weights.txt")
        pins = [pin for file in files for pin in read_pins(file.read_text("utf-8"))]
        wrong = not_locked(pins, installed, "{}.{}.{}".format(*sys.version_info))
    elif options.check:
        wrong, why = check_locks(ROOT, folder)
        if why:
            print(f"The direct requirements fit; the rest was not resolved: {why}")
    else:
        write_locks(ROOT, folder, keep=options.keep)
        return 0
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        print("scripts/lock --keep writes locks that fit; scripts/lock newer ones", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
