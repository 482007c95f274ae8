"""Check the wheels and source distributions of a release.

Usage: ``python -m deploy.release.archives FOLDER``. For each archive: `twine check --strict` and
`check-wheel-contents`; the files of a wheel are those that git tracks in the packages; the wheel
that a source distribution builds has the same content as the one beside it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

from deploy.release.requirements import ROOT, read_project

_JAR = "tactful_streaming/flink/tactful-flink.jar"
_BUNDLED = "tactful_federated/bundled/"


def expected_files(root: Path) -> tuple[set[str], set[str]]:
    """Return the tracked files that the wheels of `tactful` and `tactful-device` ought to have.

    Raises:
        CalledProcessError: The folder is no checkout of git.
    """
    wheel = read_project(root)["tool"]["hatch"]["build"]["targets"]["wheel"]
    command = ["git", "-C", str(root), "ls-files", "-z", *wheel["packages"]]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    tracked = {path for path in listed.split("\0") if path and (root / path).is_file()}
    device = {path.removeprefix("/") for path in wheel["exclude"]}

    def packed(paths: Collection[str]) -> set[str]:
        return {path.partition("/")[2] for path in paths}

    return packed(tracked - device), packed(tracked & device)


def stray_files(wheel: Path, expected: Collection[str]) -> list[str]:
    """Return the differences between the files of a wheel and those that it ought to have.

    Args:
        wheel: The wheel.
        expected: Paths of the files of its packages.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = set(expected)
    # Copies for devices without `tactful`, and the jar of a release, are no files of the checkout.
    extra = {it for it in names - wanted if it != _JAR and not it.startswith(_BUNDLED)}
    return [
        f"{wheel.name}: {name} is not a tracked file of a package" for name in sorted(extra)
    ] + [f"{wheel.name}: {name} is missing" for name in sorted(wanted - names)]


def stray_members(sdist: Path, tracked: Collection[str]) -> list[str]:
    """Return the members of a source distribution that git does not track.

    Args:
        sdist: The source distribution.
        tracked: Paths that git tracks.
    """
    with tarfile.open(sdist) as archive:
        members = {it.name.partition("/")[2] for it in archive.getmembers() if it.isfile()}
    known = {*tracked, "PKG-INFO"}
    known |= {
        path.partition("/")[2] for path in tracked if path.startswith(("device/", "federated/"))
    }
    stray = sorted(it for it in members - known if not it.startswith(_BUNDLED))
    return [f"{sdist.name}: {name} is not tracked" for name in stray]


def contents(wheel: Path) -> dict[str, bytes]:
    """Return the bytes of each file of a wheel, without the jar and the record that names it."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name != _JAR]
        return {it: archive.read(it) for it in names if not it.endswith(".dist-info/RECORD")}


def rebuilt(sdist: Path, wheel: Path) -> list[str]:
    """Return the differences between a wheel and the one that a source distribution builds."""
    environment = {key: value for key, value in os.environ.items() if key != "TACTFUL_FLINK_JAR"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
        command += ["--no-build-isolation", "--wheel-dir", folder, str(sdist)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            return [f"{sdist.name} builds no wheel: {done.stderr.strip()[-500:]}"]
        (built,) = Path(folder).glob("*.whl")
        ours, theirs = contents(wheel), contents(built)
    different = sorted(name for name in ours.keys() | theirs if ours.get(name) != theirs.get(name))
    return [f"{sdist.name}: it builds another {name} than {wheel.name}" for name in different]


def tool(*command: str) -> list[str]:
    """Run a module of this environment; return its output as one problem if it failed."""
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT
    )
    return [f"{done.stdout}{done.stderr}".strip()] if done.returncode else []


def check_archives(folder: Path, root: Path) -> list[str]:
    """Return everything that is wrong with the archives of a folder.

    Raises:
        FileNotFoundError: A wheel or a source distribution is missing.
    """
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if [len(wheels), len(sdists)] != [2, 2]:
        raise FileNotFoundError(f"{folder} has not two wheels and two source distributions")
    # In an environment of its own: its packaging is newer than flwr allows.
    twine = ("uv", "tool", "run", "--quiet", "twine>=7,<8", "check", "--strict")
    wrong = tool(*twine, *map(str, wheels + sdists))
    for wheel in wheels:
        wrong += tool("check_wheel_contents", str(wheel))
    # In the order of names, tactful-… comes before tactful_device-….
    whole, device = expected_files(root)
    wrong += stray_files(wheels[0], whole) + stray_files(wheels[1], device)
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=True
    )
    for wheel, sdist in zip(wheels, sdists, strict=True):
        wrong += stray_members(sdist, listed.stdout.split("\0")) + rebuilt(sdist, wheel)
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the archives")
    wrong = check_archives(parser.parse_args(arguments).folder, ROOT)
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
