"""The baselines, by hand and against the published figures."""

import os
from pathlib import Path

import pytest

from tactful.demo.baselines import CoVisitation, OwnFrequency, Popularity
from tactful.demo.datasets import online_retail
from tactful.training.evaluation import Scorecard


def learned(*visits: tuple[str, str, str]) -> tuple[Popularity, OwnFrequency, CoVisitation]:
    popular = Popularity()
    own, together = OwnFrequency(popular), CoVisitation(popular)
    for person, session, items in visits:
        for item in items:
            for baseline in (popular, own, together):
                baseline.took(person, session, item)
    return popular, own, together


def test_own_items_come_first_and_the_list_is_filled_up() -> None:
    popular, own, _ = learned(("p", "1", "aab"), ("q", "2", "ccc"))
    assert popular.ranked("p", "3") == ["c", "a", "b"]
    assert own.ranked("p", "3") == ["a", "b", "c"]
    assert own.ranked("stranger", "3") == ["c", "a", "b"]


def test_covisitation_weighs_near_steps_and_late_items() -> None:
    _, _, together = learned(("p", "1", "abcd"), ("q", "2", "xb"))
    together.freeze()
    # After b: c at 1, d at 1/2. After x, one place earlier: b at 1, halved.
    together.took("r", "3", "x")
    together.took("r", "3", "b")
    assert together.ranked("r", "3")[:3] == ["c", "d", "b"]


def test_before_a_visit_the_previous_one_stands_in() -> None:
    _, _, together = learned(("p", "1", "ab"), ("q", "2", "a"))
    together.freeze()
    assert together.ranked("q", "new")[0] == "b"


@pytest.mark.slow
def test_published_figures_of_the_next_item_questions() -> None:
    """HR@20 .042 for popularity, .353 (MRR .154) for co-visitation on the 20,000 questions."""
    shared = Path(os.environ.get("TACTFUL_SHARED", Path(__file__).parents[4] / "shared"))
    path = shared / "data/online_retail/online_retail.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    replay = online_retail(path)
    popular = Popularity()
    together = CoVisitation(popular)
    cards = {"popular": Scorecard(), "together": Scorecard()}
    asks = iter(replay.asks)
    ask = next(asks, None)
    for number in range(len(replay)):
        if number == replay.cut:
            popular.freeze()
            together.freeze()
        while ask is not None and ask.before == number:
            for name, baseline in (("popular", popular), ("together", together)):
                cards[name].add(ask.person, baseline.ranked(ask.person, ask.session_id), ask.taken)
            ask = next(asks, None)
        item, person = replay.item[number], replay.person[number]
        # The published figures learn from identified customers only.
        if item is not None and replay.kind[number] == 0 and not person.startswith("guest-"):
            popular.took(person, replay.session[number], item)
            together.took(person, replay.session[number], item)
    assert len(cards["popular"]) == 20_000
    assert cards["popular"].quality(1, resamples=10).hr20.value == pytest.approx(0.042, abs=0.0006)
    assert cards["together"].quality(1, resamples=10).hr20.value == pytest.approx(0.353, abs=0.002)
    assert cards["together"].quality(1, resamples=10).mrr20.value == pytest.approx(0.154, abs=0.002)
