"""Transfer of a profile: a vector that one domain computes, and items of another that it predicts.

The releasing domain embeds the history of a user: the items taken, weighed by their rarity, on the
main directions of all its histories (latent semantic analysis: Deerwester et al., 1990). The
receiving domain predicts its own items from such vectors by a ridge regression, fitted to users who
let their profiles cross. So neither domain gets a history, an item or an id of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tactful.errors import ModelError

if TYPE_CHECKING:  # only fitting needs it: 20 MB in every process that serves
    from scipy.sparse import csr_matrix

Floats = NDArray[np.floating[Any]]

_TINY = 1e-12


@dataclass(frozen=True)
class Embedding:
    """Profile vectors of one domain."""

    rarity: Floats  # inverse document frequency by item, shape (items,)
    directions: Floats  # shape (items, dimensions)

    def vectors(self, taken: csr_matrix) -> Floats:
        """Return the vectors of users; `taken` counts their items, shape (users, items)."""
        return np.asarray(_weighed(taken, self.rarity) @ self.directions, np.float64)

    def vector(self, rows: NDArray[np.int64], counts: Floats) -> Floats | None:
        """Return the vector of one user by the rows of the items taken and their counts, above 0.

        It has a length of at most 1; None if no item says anything.
        """
        weights = np.log1p(counts.astype(np.float64)) * self.rarity[rows]
        length = max(float(np.sqrt(weights @ weights)), _TINY)
        vector = (weights / length) @ self.directions[rows].astype(np.float64)
        return np.asarray(vector) if np.abs(vector).max(initial=0.0) > _TINY else None


def fit_embedding(taken: csr_matrix, dimensions: int = 32, *, fewest: int = 1) -> Embedding:
    """Find the directions of the histories of a domain.

    Args:
        taken: number of times each user took each item, shape (users, items).
        dimensions: length of a vector, smaller than both.
        fewest: number of users below which an item has no weight and no direction.

    Raises:
        ModelError: if no item tells users apart.
    """
    from scipy.sparse.linalg import ArpackError, svds

    users = np.bincount(taken.indices, minlength=taken.shape[1])
    rarity = np.log(taken.shape[0] / (1 + users)).clip(min=0)
    rarity[users < fewest] = 0.0
    start = np.ones(min(taken.shape))  # the same directions for the same histories
    try:
        _, _, right = svds(_weighed(taken, rarity), k=dimensions, v0=start)
    except ArpackError as error:  # also if all weights are 0
        raise ModelError(f"the histories have no directions: {error}") from error
    return Embedding(rarity, np.where(rarity > 0, right, 0.0).T.copy())


def _weighed(taken: csr_matrix, rarity: Floats) -> csr_matrix:
    """Return log(1 + count) · rarity, each row of length 1."""
    rows = taken.astype(np.float64)
    rows.data = np.log1p(rows.data) * rarity[rows.indices]
    squares: NDArray[np.float64] = np.asarray(rows.multiply(rows).sum(axis=1), np.float64).ravel()
    rows.data /= np.repeat(np.sqrt(np.fmax(squares, _TINY**2)), np.diff(rows.indptr))
    return rows


@dataclass(frozen=True)
class Bridge:
    """Scores of the items of the receiving domain by a profile vector of the releasing one."""

    centre: Floats  # mean vector, shape (dimensions,)
    base: Floats  # share of the users who took each item, shape (items,)
    weights: Floats  # shape (dimensions, items)

    def scores(self, vectors: Floats) -> Floats:
        """Return the expected share of takers by item, shape (users, items)."""
        return np.asarray(self.base + (vectors - self.centre) @ self.weights, np.float64)


def fit_bridge(vectors: Floats, taken: csr_matrix, ridge: float = 1.0) -> Bridge:
    """Fit a bridge to users whose profile crossed, and what they took in the receiving domain.

    Args:
        vectors: profile vectors, shape (users, dimensions).
        taken: items of the same users, shape (users, items); a count above 0 counts once.
        ridge: penalty of the squared weights.
    """
    once = taken.astype(np.float64)
    once.data = (once.data > 0).astype(np.float64)
    base = np.asarray(once.mean(axis=0)).ravel()
    centre = vectors.mean(axis=0)
    away = vectors - centre
    squares = away.T @ away + ridge * np.eye(vectors.shape[1])
    return Bridge(centre, base, np.linalg.solve(squares, np.asarray(once.T @ away).T))
