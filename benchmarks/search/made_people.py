"""Made-up people whose taste is one or two classes of items, for data without people.

The taste of each is one or two classes, drawn by their numbers of items. Nine of ten items that
they take are of these, by the popularity that each item was given, and one is of any class. The
classes appear in no description. Hidden items lose their events, and the questions are later takes
of a hidden item, with the ten latest others of the person known. The answer's place is counted
among the hidden items.

The baseline is popularity over all items: nothing is known of hidden items, so their order is
drawn. A second one is told how often each hidden item was taken before, which no shop knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.cold import SHOWN, Questions, places_of
from tactful.recall.index import RecallIndex, build_index
from tactful.recall.tables import Interactions
from tactful.vectors.content import EncodedItems
from tactful_streaming.contract.log_entries import Item

PEOPLE, FEW = 4_000, 1_000
"""Made-up people of a whole and of a quick measurement."""

_SHARE = 0.2  # of items that are hidden
_VISITS, _TAKES = 4, 5  # of a person, before the questions
_LATER = 5  # takes that may be questions
_STRAY = 0.1  # takes of any class
_SPREAD = 0.5  # of the logarithm of popularity
_LATEST = 10


@dataclass(frozen=True)
class Shop:
    """Items, and what made-up people took.

    Attributes:
        label: class of each item.
        hidden: whether each item is hidden.
        taken: item of each take, shape (people, takes), the latest last.
        later: items that were taken afterwards, shape (people, later takes).
    """

    label: NDArray[np.int64]
    hidden: NDArray[np.bool_]
    taken: NDArray[np.int64]
    later: NDArray[np.int64]


def made_up_shop(label: NDArray[np.int64], people: int, seed: int = 0) -> Shop:
    """Draw popularity, hidden items, tastes and takes."""
    draw = np.random.default_rng(seed)
    weight = np.exp(_SPREAD * draw.standard_normal(len(label)))
    takes = _VISITS * _TAKES + _LATER
    classes, sizes = np.unique(label, return_counts=True)
    taken = np.empty((people, takes), np.int64)
    for person in range(people):
        count = int(draw.integers(1, 3))
        taste = draw.choice(classes, count, replace=False, p=sizes / len(label))
        liked, any_class = np.isin(label, taste) * weight, weight
        stray = draw.random(takes) < _STRAY
        for rows, chances in ((~stray, liked), (stray, any_class)):
            drawn = draw.choice(len(label), takes, p=chances / chances.sum())
            taken[person, rows] = drawn[rows]
    hidden = draw.random(len(label)) < _SHARE
    return Shop(label, hidden, taken[:, :-_LATER], taken[:, -_LATER:])


def questions_of(shop: Shop) -> Questions:
    """Return the later takes of hidden items, each with the latest other items of the person."""
    recent, wanted, person = [], [], []
    for number, (taken, later) in enumerate(zip(shop.taken, shop.later, strict=True)):
        known = [*dict.fromkeys(taken[~shop.hidden[taken]][::-1].tolist())][:_LATEST]
        for item in later.tolist():
            if known and shop.hidden[item]:
                recent.append(known)
                wanted.append(item)
                person.append(number)
    return Questions(recent, np.array(wanted, np.int64), np.array(person, np.int64))


def index_of(
    shop: Shop, items: Sequence[Item], encoded: EncodedItems | None, *, warm: bool = False
) -> RecallIndex:
    """Learn an index without the events of hidden items, or with them if `warm`."""
    people, takes = shop.taken.shape
    visit = np.arange(people)[:, None] * _VISITS + np.arange(takes)[None] // _TAKES
    order = np.random.default_rng(2).permutation(people)  # people come in any order
    session, item = visit[order].ravel(), shop.taken[order].ravel()
    kept = np.ones(len(item), np.bool_) if warm else ~shop.hidden[item]
    seen = Interactions(
        session=session[kept],
        item=item[kept],
        timestamp=np.arange(len(item), dtype=np.int64)[kept] * 60_000,
    )
    return build_index([item.item_id for item in items], seen, items=items, encoded=encoded)


def hits_of(shop: Shop, index: RecallIndex, questions: Questions) -> NDArray[np.float64]:
    """Return 1 for each question whose answer is among the first by vectors, else 0."""
    places = places_of(index.vectors, np.flatnonzero(shop.hidden), questions)
    return (places < SHOWN).astype(float)


def hits_by_popularity(shop: Shop, questions: Questions) -> dict[str, NDArray[np.float64]]:
    """Return the hits of both baselines: `popularity` and `informed`."""
    hidden = np.flatnonzero(shop.hidden)
    counts = np.bincount(shop.taken.ravel(), minlength=len(shop.label))
    informed = np.zeros(len(shop.label), np.int64)
    informed[hidden[np.argsort(-counts[hidden], kind="stable")]] = np.arange(len(hidden))
    return {
        # The drawn order is one of many: its mean is known exactly.
        "popularity": np.full(len(questions.wanted), SHOWN / len(hidden)),
        "informed": (informed[questions.wanted] < SHOWN).astype(float),
    }
