"""Messages between a server and its encoding process; each request has one answer, in order."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.config.understanding import UnderstandingSettings

Kind = Literal["text", "picture"]
"""Queries that a process encodes."""


class WorkerSettings(msgspec.Struct, frozen=True):
    """Settings of the process."""

    data: str  # directory of the installation
    understanding: UnderstandingSettings
    kind: Kind


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The process has loaded its encoder."""

    name: str  # vectors of one name are comparable
    dimensions: int


class Text(msgspec.Struct, frozen=True, tag=True):
    """Encode a text; the answer is `Vector`."""

    text: str


class Picture(msgspec.Struct, frozen=True, tag=True):
    """Encode a picture; the answer is `Vector` or `Refused`."""

    data: bytes  # the file


class Vector(msgspec.Struct, frozen=True, tag=True):
    """A vector of length 1, or of zeros for a query that means nothing to the encoder."""

    values: bytes  # float32, little-endian

    @classmethod
    def of(cls, row: NDArray[np.float32]) -> Vector:
        """Make the message of a vector."""
        return cls(row.astype("<f4").tobytes())

    @property
    def row(self) -> NDArray[np.float32]:
        """The vector."""
        return np.frombuffer(self.values, "<f4").astype(np.float32)


class Refused(msgspec.Struct, frozen=True, tag=True):
    """A query that cannot be encoded, with the reason for its sender."""

    message: str


Request = Text | Picture
Answer = Ready | Vector | Refused
