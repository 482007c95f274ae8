"""Intents by replay: what followed a category before, of items that a user dealt with before."""

from __future__ import annotations

import numpy as np
import pytest

from tactful.training.beliefs import with_beliefs
from tactful.training.history import History
from tactful.training.questions import Question
from tactful_streaming.contract.log_entries import Item

ITEMS = ("tea-1", "tea-2", "mug-1", "杯-1", "odd")


def history(*steps: tuple[str | None, str]) -> History:
    """One event for each user and item, in log order."""
    users = list(dict.fromkeys(user for user, _ in steps))
    described = [
        Item(item_id=it, timestamp=0, category=it.split("-")[0] if "-" in it else None)
        for it in ITEMS
    ]
    count = len(steps)
    return History(
        item_ids=ITEMS,
        updates=tuple((number, item) for number, item in enumerate(described)),
        item=np.array([ITEMS.index(item) for _, item in steps], np.int64),
        session=np.array([users.index(user) for user, _ in steps], np.int64),
        timestamp=np.arange(count, dtype=np.int64),
        offset=10 + np.arange(count, dtype=np.int64),
        kind=np.zeros(count, np.int64),
        types=("view",),
        session_ids=("s",) * len(users),
        subjects=tuple(users),
    )


def question(offset: int, subject: str | None) -> Question:
    return Question(offset, 0, subject, None, frozenset({"tea-1"}))


STEPS = history(
    *[("a", "tea-1"), ("a", "tea-1"), ("a", "mug-1"), ("b", "tea-2"), ("b", "杯-1")],
    *[("c", "tea-1"), ("c", "odd"), ("c", "mug-1"), ("d", "tea-2"), ("d", "tea-1"), ("e", "mug-1")],
    *[("a", "tea-1"), ("e", "tea-2")],
)


def test_a_belief_is_what_followed_before_the_first_question() -> None:
    first = question(20, "d")  # all before "e" counts
    asked = [first, question(21, "e"), question(23, "a"), question(23, "e"), question(23, None)]
    found = [it.intent for it in with_beliefs([*asked, question(23, "new")], STEPS, 0)]
    # After tea: mugs of a and c (the odd item has no category), a cup of b, tea of d.
    after_tea = {"mug": 1.0, "tea": 0.5, "杯": 0.5}
    # Before d's question only what d had; e began with a mug, which nothing follows by then.
    assert found == [after_tea, None, after_tea, after_tea, None, None]


def test_only_questions_that_are_held_back_get_an_intent() -> None:
    asked = [question(20, "d"), question(23, "a")]
    assert with_beliefs(asked, STEPS, 2) == asked
    found = with_beliefs(asked, STEPS, 1)
    assert found[0] == asked[0] and found[1].intent


def test_nothing_is_known_of_an_empty_log() -> None:
    assert with_beliefs([], STEPS, 0) == []
    nobody = history((None, "tea-1"), (None, "mug-1"))
    assert with_beliefs([question(12, "a")], nobody, 0)[0].intent is None


@pytest.mark.parametrize("offset", [10, 10**15])
def test_any_offset_is_taken(offset: int) -> None:
    with_beliefs([question(offset, "a")], STEPS, 0)
