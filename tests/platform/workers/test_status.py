"""What is said of workers, by what happened to them."""

from __future__ import annotations

import pytest

from tactful.schemas.health import WorkerHealth
from tactful.workers.status import Roster, Serving, serving


class Crew:
    """A roster of two, with hands on its clock and on what is current."""

    def __init__(self) -> None:
        self.now = 100.0
        self.current = Serving("1", 50)
        self.roster = Roster(2, lambda: self.current, clock=lambda: self.now)

    def states(self) -> list[str]:
        return [worker.state for worker in self.roster.health()]

    def passes(self, seconds: float, *telling: int, told: Serving | None = None) -> None:
        """Time passes, in which some tell every quarter of a second what they serve."""
        for _ in range(int(seconds * 4)):
            self.now += 0.25
            for number in telling:
                self.roster.tells(number, told or self.current)


@pytest.fixture
def crew() -> Crew:
    made = Crew()
    for number in (0, 1):
        made.roster.started(number)
        made.roster.is_ready(number)
    return made


def test_who_starts_serves_and_ends() -> None:
    crew = Crew()
    assert crew.states() == ["down", "down"]
    crew.roster.started(0)
    assert crew.states() == ["starting", "down"]
    assert crew.roster.health()[0] == WorkerHealth(number=0, state="starting", restarts=0)
    crew.roster.is_ready(0)
    crew.roster.tells(0, Serving("", 49))
    assert crew.roster.health()[0] == WorkerHealth(
        number=0, state="ready", restarts=0, model_version=None, items_behind=1
    )
    assert (crew.roster.serving, crew.roster.restarted) == (1, 0)
    crew.roster.ended(0)
    assert crew.states() == ["down", "down"]
    assert (crew.roster.serving, crew.roster.restarted) == (0, 0)
    crew.roster.started(0)
    assert crew.states() == ["starting", "down"]
    assert (crew.roster.serving, crew.roster.restarted) == (0, 1)


def test_who_says_nothing_is_silent_until_it_speaks(crew: Crew) -> None:
    crew.passes(5.0, 1)
    assert crew.states() == ["ready", "ready"]
    crew.passes(0.25, 1)
    assert crew.states() == ["silent", "ready"]
    crew.passes(0.25, 0, 1)
    assert crew.states() == ["ready", "ready"]


@pytest.mark.parametrize("old", [Serving("1", 50), Serving("2", 49)])
def test_who_serves_what_was_is_behind_after_a_while(crew: Crew, old: Serving) -> None:
    crew.current = Serving("2", 50)
    crew.passes(5.0, 0)
    crew.passes(0.25, 0)
    for _ in range(20):
        crew.passes(0.25, 0)
        crew.passes(0.25, 1, told=old)
    assert crew.states() == ["ready", "behind"]
    crew.roster.tells(1, Serving("2", 51))
    assert crew.states() == ["ready", "ready"], "more items than the other knows are no lag"


def test_a_replaced_worker_begins_with_nothing_of_the_one_before(crew: Crew) -> None:
    crew.passes(60.0, 1)
    assert crew.states() == ["silent", "ready"]
    crew.roster.ended(0)
    crew.roster.started(0)
    crew.roster.is_ready(0)
    assert crew.states() == ["ready", "ready"]
    assert [worker.restarts for worker in crew.roster.health()] == [1, 0]


@pytest.mark.parametrize(
    ("described", "wanted"),
    [
        ({}, Serving("", 0)),
        ({"champion": None, "items": 7}, Serving("", 7)),
        ({"champion": {"version": "3"}, "items": 7}, Serving("3", 7)),
    ],
)
def test_what_a_recommender_says_of_itself(described: dict[str, object], wanted: Serving) -> None:
    assert serving(described) == wanted
