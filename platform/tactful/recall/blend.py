"""One score of items from all evidence: similar visits, neighbours, own repeats, popularity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import RequestContext
from tactful.kernels.sparse_scores import Scores
from tactful.recall.neighbours import NeighbourScores

_HALF = 20.0
_SEEN = 0.3
Window = Literal["now", "week", "month", "ever"]
"""Name of a window of popularity, see `WINDOWS` of `popularity`; ever: the whole history."""

_Weight = Annotated[float, Meta(ge=0.0, le=1e6)]


class Blend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights of the evidence for an item; `fit_blend` learns them from a history."""

    similar: _Weight = 1.0  # by similar visits
    following: _Weight = 0.5  # followed the last three items
    after: _Weight = 0.25  # came right after the last item
    together: _Weight = 0.5  # was together with the items of the visit
    together_history: _Weight = 0.1  # was together with the items of the history
    own: _Weight = 0.5  # the user dealt with it
    popular: _Weight = 0.1
    # factors of the sum, relative to items that are new to the user
    known: _Weight = 0.5  # of items that the user dealt with before this visit
    visited: _Weight = 0.02  # of items of this visit

    @property
    def factors(self) -> NDArray[np.float32]:
        """Factors of an item by whether it is new, known or of this visit."""
        return np.array([1.0, self.known, self.visited], np.float32)

    @property
    def shares(self) -> NDArray[np.float32]:
        """Weights in the order of the rows of `Evidence.table`."""
        sums = (
            *(self.similar, self.following, self.after),
            *(self.together, self.together_history),
        )
        return np.array([*sums, self.own], np.float32)


class Blends(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Blends by whether the visit has items yet: before its first one, others count."""

    within: Blend = Blend()
    first: Blend = Blend()
    popular: Window = "month"  # what popularity counts


class Own(NamedTuple):
    """Items that a user dealt with."""

    visit: NDArray[np.int64]  # rows of this visit
    history: NDArray[np.int64]  # rows before it
    amounts: Scores  # how often


class Evidence(NamedTuple):
    """Evidence for some items. Each kind is a share of what there is for all but visited items.

    table [[.1, 0, .02], ...]   standing [0, 2, 1]
    """

    table: NDArray[np.float32]  # a row for each kind, shape (6, n)
    standing: NDArray[np.int8]  # 0 for items new to the user, 1 for known ones, 2 of this visit

    def score(
        self, blend: Blend, popular: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the weighted sum times the factor of each item, shape (n,).

        `popular` has shares of popularity, see `popular_shares`.
        """
        sums: NDArray[np.float32] = np.einsum("k,kn->n", blend.shares, self.table)
        if popular is not None:
            sums += np.float32(blend.popular) * popular
        return sums * blend.factors[self.standing]


def kinds(neighbours: NeighbourScores, similar: Scores, own: Own) -> Sequence[Scores]:
    """Return the scores of each kind of evidence, in the order of `Blend.shares`."""
    together = neighbours.together_session, neighbours.together_history
    return similar, neighbours.next_three, neighbours.after_last, *together, own.amounts


def gather_evidence(rows: NDArray[np.int64], of: Sequence[Scores], own: Own) -> Evidence:
    """Collect the evidence of `kinds` for some rows; no filter or other candidate changes it."""
    table = np.zeros((len(of), len(rows)), np.float32)
    for line, scores in zip(table, of, strict=True):
        if len(scores.rows):
            whole = float(scores.values.sum()) - float(scores.of(own.visit).sum())
            if whole > 0.0:
                np.divide(scores.of(rows), np.float32(whole), out=line)
    standing = np.zeros(len(rows), np.int8)
    standing[np.isin(rows, np.concatenate([own.history, own.amounts.rows]))] = 1
    standing[np.isin(rows, own.visit)] = 2
    return Evidence(table, standing)


def own_items(context: RequestContext, catalogue: Catalogue) -> Own:
    """Return the items that a user dealt with; one seen counts less than one taken."""
    taken, seen = context.grouped("taken_364d"), context.grouped("seen_84d")
    amounts: dict[int, float] = {}
    for weight, group in ((1.0, taken), (_SEEN, seen)):
        for row, amount in zip(catalogue.rows.of_many(group), group.values(), strict=True):
            if row is not None and amount > 0.0:
                amounts[row] = amounts.get(row, 0.0) + weight * amount
    return Own(
        np.array(context.session, np.int64), np.array(context.history, np.int64), ordered(amounts)
    )


def ordered(amounts: Mapping[int, float]) -> Scores:
    """Lay out amounts by row."""
    rows = np.array(sorted(amounts), np.int64)
    return Scores(rows, np.array([amounts[row] for row in rows.tolist()], np.float32))


def popular_shares(places: NDArray[np.int32], known: int) -> NDArray[np.float32]:
    """Return shares of popularity that fall with the place; 0 from the place `known` on."""
    whole = np.log1p(known / _HALF) if known else 1.0
    shares = np.where(places < known, 1.0 / ((places + _HALF) * whole), 0.0)
    return shares.astype(np.float32)
