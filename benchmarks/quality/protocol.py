"""What is asked of a `Dataset`: before the first item of a later visit, and before each next one.

A question comes just before an interaction of a visit that began in the test period; right is the
item of that interaction. An item is no question right after itself. Where one touch of an item
foretells another (view, cart, purchase), a question comes before the first touch of an item that
the visit then takes, as a page would ask, and never behind it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.quality.dataset import GUEST, Dataset
from benchmarks.quality.questions import Question, Trial
from tactful.demo.datasets import Ask

_EARLIER_SHARE = 0.2


class Touch(NamedTuple):
    """An interaction with an item, the visit's first or not of the item before it."""

    number: int
    person: str
    session: tuple[str, str]
    item: str
    right: bool


@dataclass(frozen=True)
class Exam:
    """Questions to the server and the same ones to the peers.

    Attributes:
        asks: in the order of arrival.
        final: what peers may learn from, and the questions.
        earlier: the same before the cut, to choose settings on.
        names: item ids by number.
    """

    asks: Sequence[Ask]
    final: Trial
    earlier: Trial
    names: Sequence[str]

    @property
    def new_rows(self) -> list[int]:
        """Numbers of the questions whose answer the person had not touched before."""
        return [
            row
            for row, question in enumerate(self.final.questions)
            if not question.taken & {*question.prefix, *question.history}
        ]


def make_exam(dataset: Dataset, *, questions: int, earlier: int, seed: int = 0) -> Exam:
    """Draw the questions.

    Args:
        dataset: the events.
        questions: most of the test period.
        earlier: most before the cut.
        seed: of the draw.

    Raises:
        ValueError: if the test period has nothing to ask about.
    """
    sequence = list(touches(dataset))
    names = list(
        dict.fromkeys(
            [*(str(item["item_id"]) for item in dataset.items), *(it.item for it in sequence)]
        )
    )
    asked = _drawn(dataset, sequence, dataset.cut, len(dataset), questions, seed)
    if not asked:
        raise ValueError(f"{dataset.name}: no visit of the test period has a second item")
    before = [touch for touch in sequence if touch.number < dataset.cut]
    begin = int(dataset.cut * (1 - _EARLIER_SHARE))
    tuned = _drawn(dataset, before, begin, dataset.cut, earlier, seed)
    asks = [
        Ask(
            touch.number,
            int(dataset.timestamp[touch.number]),
            touch.person,
            dataset.session[touch.number],
            taken,
        )
        for touch in sequence
        if (taken := asked.get(touch.number)) is not None
    ]
    return Exam(
        asks,
        _trial(dataset, sequence, dataset.cut, asked, names),
        _trial(dataset, before, begin, tuned, names),
        names,
    )


def touches(dataset: Dataset) -> Iterator[Touch]:
    """Yield the interactions that peers learn from, in the order of arrival."""
    taken = {
        (dataset.person[number], dataset.session[number], item)
        for number, item in enumerate(dataset.item)
        if item is not None and dataset.type[number] in dataset.answers
    }
    seen: dict[tuple[str, str], set[str]] = {}
    latest: dict[tuple[str, str], str] = {}
    for number, item in enumerate(dataset.item):
        if item is None or dataset.type[number] in ("return", "refund", "remove_from_cart"):
            continue
        person = dataset.person[number]
        session = (person, dataset.session[number])
        held = seen.setdefault(session, set())
        if latest.get(session) == item or (dataset.is_funnel and item in held):
            continue
        held.add(item)
        latest[session] = item
        yield Touch(number, person, session, item, (*session, item) in taken)


def _drawn(
    dataset: Dataset, sequence: Sequence[Touch], begin: int, end: int, count: int, seed: int
) -> dict[int, frozenset[str]]:
    """Draw questions of visits that began at `begin` or later: number of the event, and right."""
    first: dict[tuple[str, str], int] = {}
    held: dict[tuple[str, str], set[str]] = {}
    known: set[str] = set()
    asked: dict[int, frozenset[str]] = {}
    for touch in sequence:
        started = first.setdefault(touch.session, touch.number)
        if begin <= started and touch.number < end:
            guest = touch.person.startswith(GUEST) and not dataset.asks_guests
            if dataset.task == "basket":
                held.setdefault(touch.session, set()).add(touch.item)
            elif not guest and touch.right and (started < touch.number or touch.person in known):
                asked[touch.number] = frozenset([touch.item])
        known.add(touch.person)
    if dataset.task == "basket":
        asked = {first[session]: frozenset(items) for session, items in held.items()}
    chosen = random.Random(seed).sample(sorted(asked), min(count, len(asked)))
    return {number: asked[number] for number in chosen}


def _trial(
    dataset: Dataset,
    sequence: Sequence[Touch],
    begin: int,
    asked: Mapping[int, frozenset[str]],
    names: Sequence[str],
) -> Trial:
    rows = {name: row for row, name in enumerate(names)}
    # By visit: items before `begin`, and the time of the latest; the visit that ended last is last.
    learned: dict[tuple[str, str], tuple[list[int], int]] = {}
    visits: dict[tuple[str, str], list[int]] = {}
    past: dict[str, list[Touch]] = {}
    questions = []
    for touch in sequence:
        at = int(dataset.timestamp[touch.number])
        visit = visits.setdefault(touch.session, [])
        everything = past.setdefault(touch.person, [])
        if (right := asked.get(touch.number)) is not None:
            earlier = tuple(rows[it.item] for it in everything if it.session != touch.session)
            taken = frozenset(rows[item] for item in right)
            questions.append(Question(touch.person, tuple(visit), earlier, taken, at))
        visit.append(rows[touch.item])
        everything.append(touch)
        if touch.number < begin:
            items, _ = learned.pop(touch.session, ([], 0))
            items.append(rows[touch.item])
            learned[touch.session] = (items, at)
    people = {person: number for number, person in enumerate(past)}
    return Trial(
        items=len(names),
        visits=[tuple(items) for items, _ in learned.values()],
        questions=questions,
        ended=tuple(at for _, at in learned.values()),
        owners=tuple(people[person] for person, _ in learned),
    )
