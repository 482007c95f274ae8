"""Interface of encoders, and common parts of their implementations."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tactful.errors import ConfigError

MOST_CHARACTERS = 4_000
"""Characters of a text that an encoder reads."""


class Encoder(Protocol):
    """Model that makes vectors of texts.

    Attributes:
        name: name of the model and a hash of its weights: vectors of one name are comparable.
        dimensions: length of a vector.
    """

    name: str
    dimensions: int

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a vector of length 1 for each text; zero for a text without words."""
        ...


def has_words(text: str) -> bool:
    """Return whether a text has a letter or a digit of any script.

    >>> has_words("红色皮鞋"), has_words(" ?! ")
    (True, False)
    """
    return any(map(str.isalnum, text))


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row to length 1; zero rows, and those that are not finite, become zero."""
    rows = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, np.float32(0.0))
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled = np.zeros_like(rows)
    np.divide(rows, norms, out=scaled, where=norms > 0)
    return scaled


def model_name(directory: Path, *files: Path) -> str:
    """Return the name of a directory, and a hash of a graph and other files in it.

    Weights that a graph has outside of its file are hashed, too. A sign that names of several
    encoders could not hold is written as `_`.

    Raises:
        ConfigError: if a file cannot be read.
    """
    outside = sorted(directory.glob("model.onnx[._]*"))
    plain = re.sub(r"[^\w.-]", "_", directory.name)
    return f"{plain}-{hash_of(directory / 'model.onnx', *outside, *files)[:16]}"


def hash_of(*files: Path) -> str:
    """Return the SHA-256 of some files, one after the other, in hexadecimal.

    Raises:
        ConfigError: if a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise ConfigError(f"{file}: the model cannot be read: {error}") from error
    return digest.hexdigest()
