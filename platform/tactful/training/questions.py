"""Questions to learn from: requests that could have been made, drawn from the visits of a log."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful.training.history import History
from tactful.training.options import TrainingOptions


@dataclass(frozen=True)
class Question:
    """A request that could have been made."""

    offset: int  # log offset of the event it comes just before
    at: int  # time of the request, epoch milliseconds
    subject: str | None  # key of the user in the engine; None for no user
    session_id: str | None  # the visit; None where the request does not name it
    positives: frozenset[str]  # item ids that were taken
    intent: Mapping[str, float] | None = None  # weight by category, sent by the device


def sample_questions(
    history: History,
    labels_from: int,
    options: TrainingOptions,
    taking: Collection[str],
    *,
    after: int = 0,  # offset of the earliest request
) -> list[Question]:
    """Draw at most `options.lists` requests to learn from, in log order.

    They are of visits that began at `labels_from`, epoch milliseconds, or later. An event of a type
    in `taking` takes its item. A request comes before the first event with an item in the visit:
    after a view, the view itself would tell what is taken next. An item that comes again after
    others is an answer again if only the next item is asked for and all its events are of one
    type: a song may be played twice. Half of the requests for baskets come before the first item;
    the answer is all that is still to be taken.
    """
    task = options.task
    if task == "auto":
        task = "next" if history.ordered else "basket"
    takes = np.isin(history.kind, history.kinds_of(taking))
    began: dict[str | None, int] = {}  # first visit of each user
    for number, subject in enumerate(history.subjects):
        began.setdefault(subject, number)
    again = task == "next"
    drawn_from = history.visits(labels_from, after)
    visits = [_Visit.of(history, rows, takes, again) for rows in drawn_from]
    # Places as (visit, place): baskets of all places would take far more memory than those drawn.
    at_first: list[tuple[int, int]] = []
    within: list[tuple[int, int]] = []
    for number, visit in enumerate(visits):
        # Before the first item nothing is known of a visitor who comes for the first time.
        is_first = began[history.subjects[visit.number]] == visit.number
        for place in visit.places(task):
            if history.offset[visit.rows[place]] < after:
                continue
            if place or task == "basket":
                (within if place else at_first).append((number, place))
            elif not is_first:
                within.append((number, place))
    generator = np.random.default_rng(options.seed)
    most = options.lists if not within else max(options.lists // 2, options.lists - len(within))
    drawn = _drawn(at_first, most, generator)
    drawn += _drawn(within, options.lists - len(drawn), generator)
    asked = [visits[number].question(history, place, task) for number, place in drawn]
    return sorted(asked, key=lambda question: question.offset)


def _drawn(
    places: Sequence[tuple[int, int]], most: int, generator: np.random.Generator
) -> list[tuple[int, int]]:
    return [places[row] for row in generator.permutation(len(places))[:most].tolist()]


@dataclass(frozen=True)
class _Visit:
    """Events of a visit that may be answers, in log order: the first with each item, or others.

    rows [7, 9, 12]   items ["tea", "mug", "cup"]   taken {"mug"}
    """

    number: int
    rows: list[int]  # of the history
    items: list[str]
    taken: frozenset[str]

    @classmethod
    def of(
        cls,
        history: History,
        rows: NDArray[np.intp],
        takes: NDArray[np.bool_],
        again: bool,  # whether an item may be an answer again
    ) -> _Visit:
        ids, items = history.item_ids, history.item[rows].tolist()
        kinds: dict[int, set[int]] = {}  # by item
        for item, kind in zip(items, history.kind[rows].tolist(), strict=True):
            kinds.setdefault(item, set()).add(kind)
        seen: set[int] = set()
        places = []
        for place, item in enumerate(items):
            repeated = again and len(kinds[item]) == 1 and item != items[place - 1]
            if item not in seen or repeated:
                places.append(place)
            seen.add(item)
        taken = frozenset(ids[item] for item in history.item[rows[takes[rows]]].tolist())
        asked = [int(rows[place]) for place in places]
        return cls(int(history.session[rows[0]]), asked, [ids[items[it]] for it in places], taken)

    def places(self, task: str) -> range | list[int]:
        """Return the places before which a question has an answer."""
        answers = [place for place, item in enumerate(self.items) if item in self.taken]
        if task == "next" or not answers:
            return answers
        return range(answers[-1] + 1)

    def question(self, history: History, place: int, task: str) -> Question:
        """Ask just before a place: for its item, or for all of a basket that is left."""
        row, end = self.rows[place], place + 1 if task == "next" else len(self.items)
        return Question(
            int(history.offset[row]),
            int(history.timestamp[row]),
            history.subjects[self.number],
            history.session_ids[self.number],
            self.taken.intersection(self.items[place:end]),
        )
