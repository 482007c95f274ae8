"""Requests to learn from: before the first event with an item, of any kind of visit."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.platform.shop import write_log

from tactful.schemas.interactions import STRENGTH, at_least, rank_of
from tactful.training.baselines import doubts
from tactful.training.history import History
from tactful.training.options import TrainingOptions
from tactful.training.questions import Question, sample_questions
from tactful_streaming.contract.log_entries import Entry, Event, Item

MINUTE = 60_000


def visit(
    session: str, *steps: str, user: str = "u", begin: int = 0, tied: bool = False
) -> list[Event]:
    """Return the events of steps such as ``"a view"``."""
    return [
        Event(
            event_id=f"{user}-{session}-{number}",
            type=step[2:],
            timestamp=begin + (0 if tied else number * MINUTE),
            user_id=user,
            session_id=session,
            item_id=step[0],
        )
        for number, step in enumerate(steps)
    ]


def questions(path: Path, events: list[Event], label: str, task: str = "next") -> list[Question]:
    items: list[Entry] = [Item(item_id=it, timestamp=0) for it in "abcd"]
    with write_log(path / "log", [*items, *events]) as log:
        history = History.read(log)
    options = TrainingOptions(task=task)  # type: ignore[arg-type]
    return sample_questions(history, 0, options, at_least(label, history.types))


FUNNEL = ("a view", "b view", "b add_to_cart", "c view", "b purchase", "a view")


def test_no_question_follows_the_view_of_its_answer(tmp_path: Path) -> None:
    """A funnel of one item is asked for before its view, and only if the item is taken."""
    (asked,) = questions(tmp_path, visit("s", *FUNNEL), "purchase")
    assert asked.positives == {"b"}
    assert asked.offset == 4 + 1, "before the view of b"


def test_the_first_item_of_a_known_visitor_is_asked_for(tmp_path: Path) -> None:
    events = [*visit("s", "a view"), *visit("t", "b view", begin=90 * MINUTE)]
    (asked,) = questions(tmp_path, events, "view")
    assert (asked.positives, asked.session_id) == (frozenset("b"), "t")


def test_a_song_that_is_played_again_is_asked_for_again(tmp_path: Path) -> None:
    """Not right after itself, and not where a view came before: that would tell the answer."""
    plays = visit("s", "a x.play", "b x.play", "b x.play", "a x.play", "c x.play")
    found = questions(tmp_path / "plays", plays, "x.play")
    assert [(it.offset - 4, it.positives) for it in found] == [
        (1, frozenset("b")),
        (3, frozenset("a")),
        (4, frozenset("c")),
    ]
    shop = visit("s", "a view", "b view", "c view", "b view", "b add_to_cart", "c view")
    found = questions(tmp_path / "shop", shop, "add_to_cart")
    assert [(it.offset - 4, it.positives) for it in found] == [(1, frozenset("b"))]


def test_a_basket_is_asked_for_before_and_within(tmp_path: Path) -> None:
    """The answer is what is still to come."""
    events = visit("s", "a purchase", "b purchase", "c view", "d purchase", tied=True)
    found = questions(tmp_path, events, "purchase", "basket")
    assert [it.positives for it in found] == [{"a", "b", "d"}, {"b", "d"}, {"d"}, {"d"}]
    assert [it.offset for it in found] == [4, 5, 6, 7]


def test_two_people_with_one_visit_id_are_asked_apart(tmp_path: Path) -> None:
    alice, bob = visit("s", "a view", "b view"), visit("s", "c view", "d view", user="bob")
    events = [alice[0], bob[0], alice[1], bob[1]]
    found = questions(tmp_path, events, "view")
    assert [(it.subject, it.positives) for it in found] == [
        ("u", frozenset("b")),
        ("bob", frozenset("d")),
    ]


def test_the_strength_of_types() -> None:
    ranks = [rank_of(type_) for type_ in STRENGTH]
    assert ranks == sorted(ranks)
    assert rank_of("x.play") == rank_of("x.*")
    assert at_least("click", ["view", "x.play", "purchase", "search"]) == {
        "click",
        "x.play",
        "purchase",
    }
    with pytest.raises(ValueError, match="'search' deals with no item"):
        rank_of("search")


SOUND = {"hr20": 0.6, "ndcg20": 0.4, "hr20_repeats": 0.5, "ndcg20_repeats": 0.3}


@pytest.mark.parametrize(
    ("metrics", "gains", "said"),
    [
        ({}, {"a": 5.0, "b": 5.0}, None),
        ({"ndcg20_session_knn": 0.41}, {"a": 5.0, "b": 5.0}, "below 0.410 of session_knn"),
        ({"hr20": 0.99}, {"a": 5.0, "b": 5.0}, "the answer is likely to be in the question"),
        ({"hr20": 0.99, "hr20_repeats": 0.93}, {"a": 5.0, "b": 5.0}, None),
        ({}, {"price": 95.0, "b": 5.0}, "95% of the gain are of the column price"),
        ({}, {}, None),
    ],
)
def test_doubtful_models_are_named(
    metrics: dict[str, float], gains: dict[str, float], said: str | None
) -> None:
    found = doubts({**SOUND, **metrics}, gains, rows=60 * 150, lists=60)
    assert len(found) == (said is not None)
    assert said is None or said in found[0]
    assert doubts({**SOUND, **metrics}, gains, rows=49 * 150, lists=49) == []
