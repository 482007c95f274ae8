"""Input of every recommender: past visits, and for each question the events until then.

The questions are those of `tactful.demo.datasets`. A second trial of the same kind lies wholly
before the cut; settings are chosen on it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tactful.demo.datasets import DAY, Replay

_DAYS = 30
_LATEST = 20
_QUESTIONS = 4_000


@dataclass(frozen=True)
class Question:
    """One list to make. Items are numbers, the catalogue's in its order.

    Attributes:
        person: who asks.
        prefix: items of the visit so far, oldest first.
        history: items of the person's earlier visits, oldest first.
        taken: what was right.
        at: when, epoch milliseconds; 0 where no peer needs it.
    """

    person: str
    prefix: tuple[int, ...]
    history: tuple[int, ...]
    taken: frozenset[int]
    at: int = 0

    @property
    def known(self) -> tuple[int, ...]:
        """Items to start from: the visit's, or before its first one the person's latest."""
        return self.prefix or self.history[-_LATEST:]


@dataclass(frozen=True)
class Trial:
    """What may be learned from, and what is asked.

    Attributes:
        items: how many items there are.
        visits: items of each past visit in its order; the visit that ended last comes last.
        questions: in time order.
        ended: when each visit ended, epoch milliseconds; empty where no peer needs it.
        owners: number of the person of each visit; empty where no peer needs it.
        repeats: whether a recommendation may hold items of the visit.
        new_only: whether it may hold nothing that the person had before.
    """

    items: int
    visits: Sequence[tuple[int, ...]]
    questions: Sequence[Question]
    ended: Sequence[int] = ()
    owners: Sequence[int] = ()
    repeats: bool = False
    new_only: bool = False


@dataclass(frozen=True)
class _Line:
    number: int
    person: str
    session: str
    item: int


def final_trial(replay: Replay) -> Trial:
    """The questions of a replay, with all visits before its cut to learn from."""
    rows = _rows(replay)
    asked = {ask.before: frozenset(rows[item] for item in ask.taken) for ask in replay.asks}
    return _trial(replay, replay.cut, asked)


def earlier_trial(
    replay: Replay, *, days: int = _DAYS, questions: int = _QUESTIONS, seed: int = 0
) -> Trial:
    """Questions of the same kind from the last days before the cut, and nothing from behind it.

    Args:
        replay: whose questions are about whole baskets if any has several answers, else about the
            next item.
        days: how long before the cut the questions begin.
        questions: how many are drawn at most.
        seed: of the draw.
    """
    since = int(replay.timestamp[replay.cut]) - days * DAY
    begin = int(np.searchsorted(replay.timestamp, since))
    whole = any(len(ask.taken) > 1 for ask in replay.asks)
    asked: dict[int, frozenset[int]] = {}
    for lines in _by_session(_lines(replay, replay.cut)).values():
        if lines[0].number < begin:
            continue
        if whole:
            asked[lines[0].number] = frozenset(line.item for line in lines)
        else:
            asked.update({line.number: frozenset([line.item]) for line in lines[1:]})
    drawn = random.Random(seed).sample(sorted(asked), min(questions, len(asked)))
    return _trial(replay, begin, {number: asked[number] for number in drawn})


def _trial(replay: Replay, begin: int, asked: Mapping[int, frozenset[int]]) -> Trial:
    visits: dict[str, list[int]] = {}
    past: dict[str, list[int]] = {}
    questions = []
    for line in _lines(replay, max(asked, default=0) + 1):
        visit, everything = visits.setdefault(line.session, []), past.setdefault(line.person, [])
        if line.number in asked:
            # What was taken in this visit is the end of what the person took.
            earlier = tuple(everything[: len(everything) - len(visit)])
            questions.append(Question(line.person, tuple(visit), earlier, asked[line.number]))
        visit.append(line.item)
        everything.append(line.item)
    known = _by_session(_lines(replay, begin)).values()
    return Trial(
        items=len(_rows(replay)),
        visits=[
            tuple(line.item for line in lines)
            for lines in sorted(known, key=lambda lines: lines[-1].number)
        ],
        questions=questions,
    )


def _lines(replay: Replay, end: int) -> list[_Line]:
    """What identified people took, as far as event number `end`; it is not asked for guests."""
    rows = _rows(replay)
    return [
        _Line(number, replay.person[number], replay.session[number], rows[item])
        for number, item in enumerate(replay.item[:end])
        if item is not None
        and replay.kind[number] == 0
        and not replay.person[number].startswith("guest-")
    ]


def _by_session(lines: Sequence[_Line]) -> dict[str, list[_Line]]:
    found: dict[str, list[_Line]] = {}
    for line in lines:
        found.setdefault(line.session, []).append(line)
    return found


def _rows(replay: Replay) -> dict[str, int]:
    """The catalogue in its order, then what was taken without being described."""
    described = (str(item["item_id"]) for item in replay.items)
    taken = (item for item in replay.item if item is not None)
    return {item: row for row, item in enumerate(dict.fromkeys([*described, *taken]))}
