"""Session kNN: items of past visits that resemble the present one.

After V-SKNN (Ludewig and Jannach, "Evaluation of session-based recommendation algorithms", User
Modeling and User-Adapted Interaction 28, 2018): visits that share items with the present one are
its neighbours, the more the later the shared items came, and neighbours vote for their own items.
Here a vote also weakens with the distance from the shared item, since what comes next in a visit
depends most on what came just before; on invoices whose lines have an order this is worth half of
the mean reciprocal rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.kernels.sparse_scores import Scores

_FADE = 0.5
_LOOKS_BACK = 10
_NEIGHBOURS = 500
_LENGTH_POWER = 0.25
_AGE = 0.2
_DISTANCE_POWER = 1.5
_BEFORE = 0.3
DOUBT = 5.0

_FIELDS = ("session_starts", "session_items", "visit_starts", "visits", "visit_places")


@dataclass(frozen=True)
class SessionNeighbours:
    """Past visits, and for each item its latest visits. No visit has a user.

        session_starts [0, 3, 5]   session_items [7, 2, 9, | 2, 7]   two visits
        visit_starts [..., 4, 6]   visits [..., | 0, 1]   visit_places [..., | 1, 0]   item 2

    Attributes:
        session_starts: start of each visit in `session_items`, shape (visits + 1,).
        session_items: item rows visit by visit, in the order of each visit.
        visit_starts: start of each item in `visits`, shape (n_items + 1,).
        visits: the latest visits of each item.
        visit_places: the place of the item in each of them, the last if it occurs twice.
    """

    session_starts: NDArray[np.int64]
    session_items: NDArray[np.int32]
    visit_starts: NDArray[np.int64]
    visits: NDArray[np.int32]
    visit_places: NDArray[np.int32]

    @classmethod
    def build(
        cls,
        session: NDArray[np.int64],
        item: NDArray[np.int64],
        count: int,
        *,
        latest: int = 500,
    ) -> SessionNeighbours:
        """Lay out past visits.

        Args:
            session: visit number of each event, in time order.
            item: item row of each event.
            count: number of items.
            latest: visits kept for each item.
        """
        # Visits are numbered by their last event, so a higher number is a later visit.
        distinct, last = np.unique(session[::-1], return_index=True)
        rank = np.empty(len(distinct), np.int64)
        rank[np.argsort(-last, kind="stable")] = np.arange(len(distinct))
        number = rank[np.searchsorted(distinct, session)]
        order = np.argsort(number, kind="stable")
        number, items = number[order], item[order]
        sizes = np.bincount(number, minlength=len(distinct))
        starts = np.concatenate([[0], np.cumsum(sizes)])
        places = np.arange(len(items)) - starts[number]
        # By item, then visit, then place: of one item in one visit the last place is kept.
        by_item = np.lexsort((places, number, items))
        items_, number_, places_ = items[by_item], number[by_item], places[by_item]
        final = np.ones(len(items_), np.bool_)
        final[:-1] = (items_[1:] != items_[:-1]) | (number_[1:] != number_[:-1])
        items_, number_, places_ = items_[final], number_[final], places_[final]
        ends = np.cumsum(np.bincount(items_, minlength=count))
        recent = np.arange(len(items_)) >= ends[items_] - latest
        kept = np.bincount(items_[recent], minlength=count)
        return cls(
            session_starts=starts.astype(np.int64),
            session_items=items.astype(np.int32),
            visit_starts=np.concatenate([[0], np.cumsum(kept)]).astype(np.int64),
            visits=number_[recent].astype(np.int32),
            visit_places=places_[recent].astype(np.int32),
        )

    def scores(self, session: Sequence[int], *, neighbours: int = _NEIGHBOURS) -> Scores:
        """Score the items of the visits most like this one.

        Args:
            session: item rows, newest first; unknown rows are skipped.
            neighbours: number of visits that vote.
        """
        distinct = list(dict.fromkeys(session))[:_LOOKS_BACK]
        known = [row for row in distinct if row < len(self.visit_starts) - 1]
        spans = [
            slice(int(self.visit_starts[row]), int(self.visit_starts[row + 1])) for row in known
        ]
        if not any(span.stop > span.start for span in spans):
            return Scores.empty()
        shared = np.concatenate([self.visits[span] for span in spans])
        places = np.concatenate([self.visit_places[span] for span in spans])
        ages = np.repeat(np.arange(len(spans)), [span.stop - span.start for span in spans])
        # The first of equal numbers is that of the newest shared item.
        visits, newest, of = np.unique(shared, return_index=True, return_inverse=True)
        lengths = self.session_starts[visits + 1] - self.session_starts[visits]
        likeness = np.bincount(of, weights=_FADE**ages) / lengths**_LENGTH_POWER
        if len(visits) > neighbours:
            chosen = np.argpartition(-likeness, neighbours)[:neighbours]
        else:
            chosen = np.arange(len(visits))
        votes = likeness[chosen] * np.maximum(0.0, 1.0 - _AGE * ages[newest[chosen]])
        lengths = lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        place = np.arange(int(lengths.sum())) - np.repeat(offsets, lengths)
        items = self.session_items[np.repeat(self.session_starts[visits[chosen]], lengths) + place]
        distance = place - np.repeat(places[newest[chosen]], lengths)
        with np.errstate(divide="ignore"):
            strength = np.abs(distance.astype(np.float64)) ** -_DISTANCE_POWER
        strength[distance < 0] *= _BEFORE
        strength[distance == 0] = 0.0
        return Scores.summed(items, strength * np.repeat(votes, lengths))

    def rows_beside(self, row: int, step: int) -> tuple[NDArray[np.int32], int]:
        """Return the rows at a distance from an item, one for each of its latest visits.

        Args:
            row: row of the item, which is not returned itself.
            step: 1 for right after it, -1 for right before it, 2 for two places after it.

        Returns:
            The rows, and the number of visits; both are empty for an unknown item.
        """
        if row >= len(self.visit_starts) - 1:
            return self.session_items[:0], 0
        span = slice(int(self.visit_starts[row]), int(self.visit_starts[row + 1]))
        visits = self.visits[span]
        begins = self.session_starts[visits]
        places = begins + self.visit_places[span] + step
        inside = (places >= begins) & (places < self.session_starts[visits + 1])
        rows = self.session_items[places[inside]]
        return rows[rows != row], len(visits)

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return the arrays to save, by name."""
        return {name: getattr(self, name) for name in _FIELDS}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> SessionNeighbours:
        """Make it from the result of `arrays`."""
        return cls(**{name: arrays[name] for name in _FIELDS})

    @classmethod
    def empty(cls) -> SessionNeighbours:
        """Make it without visits."""
        nothing = np.zeros(0, np.int64)
        return cls.build(nothing, nothing, 0)
