"""Part of a recall index for profiles that cross: directions of the own, bridges for others'.

The own directions turn a history into a profile, which other domains receive. A bridge predicts
the items of this domain from profiles of one other domain, by one version of its directions. It
counts for users of whom little else is known, as the cohorts do: the lift of an item is its
expected share of takers by the profile over the share of all, in log-odds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.request_context import CrossedVector
from tactful.domains.bridge import Bridge, Embedding
from tactful.errors import ModelError
from tactful.kernels.sparse_scores import Scores
from tactful.util.checked_arrays import is_finite, map_array, require, within
from tactful_privacy.decoding import DECODE_ERRORS

SEEN: Final = 0.25
"""Weight of an item in a profile that was seen, beside 1 for one that was taken."""

_FILE = "crossings.json"


class OwnProfiles(msgspec.Struct, frozen=True):
    """Version of the own directions."""

    version: str
    made_at: int  # time of the latest event that they were computed from, epoch milliseconds
    trained_at: int = 0  # time at which the training began that computed them, epoch milliseconds


class _Trained(msgspec.Struct, frozen=True):
    releasing: str
    embedding: str
    people: int


class _Layout(msgspec.Struct, frozen=True):
    own: OwnProfiles | None = None
    bridges: list[_Trained] = []


@dataclass(frozen=True)
class TrainedBridge:
    """Bridge from one version of the profiles of another domain."""

    releasing: str
    embedding: str
    people: int  # users that it was fitted to
    rows: NDArray[np.int32]  # rows of the items it predicts, ascending, shape (n,)
    bridge: Bridge

    def lift(self, vector: Sequence[float]) -> NDArray[np.float32]:
        """Return the lifts of its items by a profile, shape (n,)."""
        base, share = self.bridge.base, self.bridge.scores(np.array(vector)).clip(min=0.0)
        prior = 0.5 / self.people
        return np.log((share + prior) / (base + prior)).astype(np.float32)


@dataclass(frozen=True)
class Taste:
    """Items by the profiles that a user let cross."""

    lift: Scores  # difference in log-odds of taking each item, between the user and all
    ranked: NDArray[np.int64]  # rows by the probability of being taken, best first


@dataclass(frozen=True)
class Crossings:
    """Own directions of profiles, and bridges from those of others."""

    own: OwnProfiles | None = None
    embedding: Embedding | None = None  # by row of the index; None without `own`
    bridges: Sequence[TrainedBridge] = field(default=())

    def taste(self, crossed: Sequence[CrossedVector]) -> Taste | None:
        """Return the items that profiles predict; None where no bridge reads them.

        The lifts of profiles from several domains are averaged: tastes overlap.
        """
        lifted = [
            (trained, trained.lift(profile.vector))
            for profile in crossed
            for trained in self.bridges
            if (trained.releasing, trained.embedding) == (profile.releasing, profile.embedding)
            and len(trained.bridge.centre) == len(profile.vector)
        ]
        if not lifted:
            return None
        every = np.concatenate([trained.rows for trained, _ in lifted])
        rows, places = np.unique(every, return_inverse=True)
        counts = np.bincount(places)
        lifts = np.bincount(places, np.concatenate([lift for _, lift in lifted])) / counts
        bases = np.concatenate([trained.bridge.base for trained, _ in lifted])
        shares = np.bincount(places, bases) / counts
        order = np.lexsort((rows, -(np.log(shares.clip(min=1e-9)) + lifts)))
        scores = Scores(rows.astype(np.int64), lifts.astype(np.float32))
        return Taste(scores, scores.rows[order])

    def save(self, directory: Path) -> None:
        """Write the layout; the arrays go with those of the index."""
        described = [
            _Trained(trained.releasing, trained.embedding, trained.people)
            for trained in self.bridges
        ]
        (directory / _FILE).write_bytes(msgspec.json.encode(_Layout(self.own, described)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by the names they are saved under."""
        named: dict[str, NDArray[Any]] = {}
        if self.embedding is not None:
            named["crossing_rarity"] = self.embedding.rarity.astype(np.float32)
            named["crossing_directions"] = self.embedding.directions.astype(np.float32)
        for number, trained in enumerate(self.bridges):
            bridge = trained.bridge
            parts = (trained.rows, bridge.centre, bridge.base, bridge.weights)
            for name, kind, part in zip(_BRIDGE, _KINDS, parts, strict=True):
                named[f"crossing_{number}_{name}"] = part.astype(kind)
        return named

    @classmethod
    def load(cls, directory: Path, count: int) -> Crossings:
        """Map the arrays of an index of `count` items; earlier versions have none.

        Raises:
            ModelError: if a file is missing, or does not fit the others; the message names it.
        """
        path = directory / _FILE
        if not path.exists():
            return cls()
        try:
            layout = msgspec.json.decode(path.read_bytes(), type=_Layout)
        except (OSError, *DECODE_ERRORS) as error:
            raise ModelError(f"{path}: cannot be read: {error}") from error
        embedding = None if layout.own is None else _load_embedding(directory, count)
        bridges = tuple(
            _load_bridge(directory, number, about, count)
            for number, about in enumerate(layout.bridges)
        )
        return cls(layout.own, embedding, bridges)


_BRIDGE = ("rows", "centre", "base", "weights")
_KINDS = (np.int32, np.float32, np.float32, np.float32)


def _load_embedding(directory: Path, count: int) -> Embedding:
    rarity = map_array(first := directory / "crossing_rarity.npy", np.float32, 1)
    directions = map_array(second := directory / "crossing_directions.npy", np.float32, 2)
    require(len(rarity) == count and is_finite(rarity), first, "rarity of items")
    require(len(directions) == count and is_finite(directions), second, "directions of items")
    return Embedding(rarity, directions)


def _load_bridge(directory: Path, number: int, about: _Trained, count: int) -> TrainedBridge:
    paths = [directory / f"crossing_{number}_{name}.npy" for name in _BRIDGE]
    rows, centre, base, weights = (
        map_array(path, kind, 2 if path is paths[-1] else 1)
        for path, kind in zip(paths, _KINDS, strict=True)
    )
    fits = within(rows, count) and bool((np.diff(rows) > 0).all()) and about.people > 0
    require(fits, paths[0], "rows of items")
    require(is_finite(centre), paths[1], "mean profile")
    require(len(base) == len(rows) and is_finite(base), paths[2], "shares of items")
    fits = weights.shape == (len(centre), len(rows)) and is_finite(weights)
    require(fits, paths[3], "weights of items")
    bridge = Bridge(centre, base, weights)
    return TrainedBridge(about.releasing, about.embedding, about.people, rows, bridge)
