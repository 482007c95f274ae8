"""Vectors of items without events, from their descriptions.

A linear map from words, category and price to the learned vectors, fitted on the items that have
both. Gantner, Drumond, Freudenthaler, Rendle and Schmidt-Thieme, "Learning attribute-to-feature
mappings for cold-start recommendations" (ICDM 2010). Words are hashed, so that the map applies to
any description. The map also reads vectors of encoders, of texts or pictures, as far as that lowers
its error on items that were held out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.contract.log_entries import Item

if TYPE_CHECKING:
    from scipy import sparse

_WORD = re.compile(r"\w+")
_BUCKETS = 1 << 13
_DAMPING = 1.0
_MOST_WORDS = 64
_SCALES = (0.5, 1.0)  # of encoded vectors beside the words; 0 where neither is better
_MOST_JUDGED = 8_000  # items that choose the scale
_FEWEST_JUDGED = 50


class EncodedItems(Protocol):
    """Vectors of items by one or more encoders, joined.

    Attributes:
        name: of the encoders.
        parts: length of the vectors by each encoder.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def parts(self) -> Sequence[int]: ...  # noqa: D102

    def of(self, items: Sequence[Item | None]) -> NDArray[np.float32]:
        """Return the joined vectors of each item; zero where there is none."""


def _nothing() -> NDArray[np.float32]:
    return np.zeros((0, 0), np.float32)


@dataclass(frozen=True)
class ContentVectors:
    """A map from descriptions to vectors."""

    # vector of each hashed word, shape (buckets, dimensions); no buckets for a map that was never
    # fitted and returns zero vectors
    weights: NDArray[np.float32]
    encoder: str = ""  # name of the encoders whose vectors are read, too; empty for none
    # the map of encoded vectors, shape (encoded dimensions, dimensions), and their mean as one row
    projection: NDArray[np.float32] = field(default_factory=_nothing)
    centre: NDArray[np.float32] = field(default_factory=_nothing)

    @classmethod
    def fit(
        cls,
        items: Sequence[Item | None],
        vectors: NDArray[np.float32],
        *,
        buckets: int = _BUCKETS,
        encoded: EncodedItems | None = None,
    ) -> ContentVectors:
        """Fit to vectors that are not zero, by damped least squares, one dimension each time.

        Vectors of each encoder are read beside the words at the scale, of 0, a half and 1, whose
        vectors of a fifth of the items are nearest to the learned ones.
        """
        taught = [row for row, item in enumerate(items) if item is not None and vectors[row].any()]
        dimensions = vectors.shape[1]
        if not taught:
            return cls.empty(dimensions)
        described = [item for row in taught if (item := items[row]) is not None]
        words, target = _words(described, buckets), vectors[taught].astype(np.float64)
        if encoded is not None:
            rows = encoded.of(described)
            parts = _slices(encoded.parts)
            centre = np.concatenate([_centre(rows[:, part]) for part in parts])
            rows = _centred(rows, centre, parts)
            if any(scales := _best_scales(words, rows, parts, target)):
                each = np.repeat(np.array(scales, np.float32), encoded.parts)
                fitted = _solve(words, each * rows, target)
                projection = each[:, None] * fitted[buckets:]
                return cls(fitted[:buckets], encoded.name, projection, centre[None])
        return cls(_solve(words, np.zeros((len(taught), 0), np.float32), target))

    @classmethod
    def empty(cls, dimensions: int) -> ContentVectors:
        """Make a map that was never fitted."""
        return cls(np.zeros((0, dimensions), np.float32))

    def vectors(
        self, items: Sequence[Item], encoded: EncodedItems | None = None
    ) -> NDArray[np.float32]:
        """Return unit vectors of items, or zero, shape (len(items), dimensions).

        Without the vectors of its encoders, the map reads the words alone.
        """
        made = np.zeros((len(items), self.weights.shape[1]), np.float32)
        if len(self.weights) and items:
            made[:] = _words(items, len(self.weights)) @ self.weights
            if self.reads(encoded):
                assert encoded is not None
                rows = encoded.of(items)
                made += _centred(rows, self.centre[0], _slices(encoded.parts)) @ self.projection
            norms = np.linalg.norm(made, axis=1, keepdims=True)
            np.divide(made, norms, out=made, where=norms > 0)
        return made

    def reads(self, encoded: EncodedItems | None) -> bool:
        """Return whether the map was fitted to vectors of these encoders."""
        return (
            encoded is not None
            and encoded.name == self.encoder
            and sum(encoded.parts) == len(self.projection)
        )

    def fill(
        self,
        items: Sequence[Item | None],
        vectors: NDArray[np.float32],
        encoded: EncodedItems | None = None,
    ) -> None:
        """Replace zero vectors of described rows, in place."""
        rows = [row for row, item in enumerate(items) if item and not vectors[row].any()]
        vectors[rows] = self.vectors([item for row in rows if (item := items[row])], encoded)


def _slices(parts: Sequence[int]) -> list[slice]:
    """Return the place of each encoder's vectors in joined ones."""
    ends = np.cumsum(parts).tolist()
    return [slice(end - part, end) for part, end in zip(parts, ends, strict=True)]


def _centre(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of the rows that are not zero."""
    centre = rows.sum(axis=0) / np.float32(max(int(rows.any(axis=1).sum()), 1))
    return np.asarray(centre, np.float32)


def _centred(
    rows: NDArray[np.float32], centre: NDArray[np.float32], parts: Sequence[slice]
) -> NDArray[np.float32]:
    """Subtract the centre from each part of a row that is not zero."""
    made = rows - centre
    for part in parts:
        made[:, part] *= rows[:, part].any(axis=1, keepdims=True)
    return made


def _best_scales(
    words: sparse.csr_matrix,
    rows: NDArray[np.float32],
    parts: Sequence[slice],
    target: NDArray[np.float64],
) -> list[float]:
    """Return the scale of each encoder's vectors, chosen one after the other.

    It is the one with the highest mean cosine on held-out items, beside the scales chosen before.
    """
    judged = np.random.default_rng(0).permutation(len(target))[:_MOST_JUDGED]
    held, learned = judged[: len(judged) // 5], judged[len(judged) // 5 :]
    chosen = [0.0] * len(parts)
    if len(held) < _FEWEST_JUDGED:
        return chosen

    def likeness(scales: Sequence[float]) -> float:
        given = [scale * rows[:, part] for scale, part in zip(scales, parts, strict=True) if scale]
        both = np.hstack([rows[:, :0], *given])
        fitted = _solve(words[learned], both[learned], target[learned])
        buckets = words.shape[1]
        made = words[held] @ fitted[:buckets] + both[held] @ fitted[buckets:]
        lengths = np.linalg.norm(made, axis=1) * np.linalg.norm(target[held], axis=1)
        products = (made * target[held]).sum(axis=1)
        return float(np.divide(products, np.maximum(lengths, 1e-12)).mean())

    best = likeness(chosen)
    for place in range(len(parts)):
        for scale in _SCALES:
            tried = [*chosen[:place], scale, *chosen[place + 1 :]]
            if (reached := likeness(tried)) > best:
                best, chosen = reached, tried
    return chosen


def _solve(
    words: sparse.csr_matrix, rows: NDArray[np.float32], target: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Solve for the weights of words, then of encoded dimensions, shape (both, dimensions)."""
    from scipy.sparse.linalg import LinearOperator

    count, buckets = words.shape
    if not rows.shape[1]:
        return _each(words, target, buckets)
    turned, rows = words.T.tocsr(), rows.astype(np.float64)

    def forth(weights: NDArray[Any]) -> NDArray[Any]:
        weights = weights.ravel()
        return np.asarray(words @ weights[:buckets] + rows @ weights[buckets:])

    def back(errors: NDArray[Any]) -> NDArray[Any]:
        errors = errors.ravel()
        return np.concatenate([turned @ errors, rows.T @ errors])

    both = buckets + rows.shape[1]
    given = LinearOperator((count, both), matvec=forth, rmatvec=back, dtype=np.float64)
    return _each(given, target, both)


def _each(given: Any, target: NDArray[np.float64], count: int) -> NDArray[np.float32]:
    """Solve for one dimension of the target each time; `given` is a matrix or an operator."""
    from scipy.sparse.linalg import lsmr

    weights = np.zeros((count, target.shape[1]), np.float32)
    for dimension in range(target.shape[1]):
        found = lsmr(given, target[:, dimension], damp=_DAMPING, atol=1e-4, btol=1e-4)
        weights[:, dimension] = found[0]
    return weights


def _words(items: Sequence[Item], buckets: int) -> sparse.csr_matrix:
    """Return one row for each item, of length 1, its words by their hashes."""
    from scipy import sparse  # only the writer of an index needs it: 20 MB

    columns: list[int] = []
    starts = [0]
    for item in items:
        columns.extend(crc32(word.encode()) % buckets for word in _described(item))
        starts.append(len(columns))
    counts = np.diff(starts)
    values = np.repeat(1.0 / np.sqrt(np.maximum(counts, 1)), counts)
    return sparse.csr_matrix((values, columns, starts), shape=(len(items), buckets))


def _described(item: Item) -> list[str]:
    """Return the words of a description, each with its field."""
    words = {f"title:{word}" for word in _WORD.findall((item.title or "").lower())[:_MOST_WORDS]}
    if item.category is not None:
        words.add(f"category:{item.category}")
    if item.price is not None and item.price > 0.0:
        words.add(f"price:{round(2.0 * math.log(item.price))}")
    return sorted(words)
