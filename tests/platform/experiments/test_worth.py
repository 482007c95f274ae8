"""The effect against the permanent holdout: exact, released, drawn once, and really held out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests.platform.shop import BEGIN, DAY, HOUR, Clock, write_log
from tests.platform.support import Live, small_settings, view, wait_until

from tactful.config.engine import EngineSettings
from tactful.config.recommendation import RecommendSettings
from tactful.experiments.baseline import ExactOutcomes
from tactful.experiments.definitions import CHANGE, CONTROL, HOLDOUT, experiment_at
from tactful.experiments.worth import NO_HOLDOUT, NOT_RELEASED, Worth
from tactful.experiments.worth_release import (
    noise_of_week,
    release_week,
    released_samples,
)
from tactful.experiments.worth_tally import UserWorth
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import worth_releases
from tactful.recommend.build import build
from tactful.server.platform import Platform
from tactful_bandits.assignment.assign import assign
from tactful_privacy.errors import BudgetError
from tactful_privacy.ledger.query import Query
from tactful_privacy.mechanisms.laplace import DiscreteLaplace
from tactful_streaming.contract.log_entries import Entry, Event, decode_entry
from tactful_streaming.log.event_log import EventLog

WEEK = 7 * DAY
MONDAY = (BEGIN - 4 * DAY) // WEEK * WEEK + 4 * DAY + WEEK
SHARE = 0.3


def history(people: int) -> tuple[list[Entry], dict[str, list[UserWorth]]]:
    """Return a week's log, and what each person did since their first recommendation."""
    rng = np.random.default_rng(4)
    made: list[Event] = []
    truth: dict[str, list[UserWorth]] = {CONTROL: [], CHANGE: []}
    experiment = experiment_at(HOLDOUT, 1 - SHARE)
    for number in range(people):
        person = f"p{number}"
        arm = assign(experiment, person).arm or ""
        better = arm == CHANGE
        shown, clicked = int(rng.integers(1, 5)), 0
        for place in range(shown):
            about: dict[str, Any] = {"user_id": person, "recommendation_id": f"{person}-{place}"}
            at = MONDAY + DAY + place * HOUR
            drawn: dict[str, Any] = {"items": ["i1"], "rollouts": [f"{HOLDOUT}:{arm}"]}
            made.append(
                Event(
                    event_id=f"impression:{person}-{place}",
                    type="impression",
                    timestamp=at,
                    properties=drawn,
                    **about,
                )
            )
            if rng.random() < (0.4 if better else 0.2):
                clicked += 1
                about["item_id"] = "i1"
                made.append(
                    Event(event_id=f"c-{person}-{place}", type="click", timestamp=at + 1, **about)
                )
        orders, spent, saved = int(rng.poisson(0.8 if better else 0.5)), 0.0, 0.0
        for order in range(orders):
            price, discount = float(rng.uniform(5, 50)), float(rng.random() < 0.3)
            spent, saved = spent + price, saved + discount
            made.append(purchase(person, order, MONDAY + 2 * DAY, price=price, discount=discount))
        made.append(purchase(person, 98, MONDAY + HOUR, price=1e6))  # before the first
        truth[arm].append(UserWorth(shown, clicked, orders, spent, saved))
    made += made[-1:]  # a retry
    return [*sorted(made, key=lambda event: event.timestamp)], truth


def purchase(person: str, number: int, at: int, **properties: float) -> Event:
    return Event(
        event_id=f"buy-{person}-{number}",
        type="purchase",
        timestamp=at,
        user_id=person,
        item_id="i1",
        properties={**properties},
    )


@contextlib.contextmanager
def measuring(
    path: Path, made: Iterable[Entry], metadata: MetadataStore, **options: Any
) -> Iterator[Worth]:
    clock = Clock()
    clock.at = MONDAY + WEEK + DAY
    with contextlib.closing(write_log(path, made)) as log:
        settings = {"holdout": SHARE, "epsilon": 1.0, "clock": clock, **options}
        yield Worth(metadata, ExactOutcomes(lambda: [Received(log)]), **settings)


class Received:
    """A log whose records were received in the week of their events."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def offset_at(self, timestamp: int) -> int:
        return self._log.begin if timestamp <= MONDAY else self._log.end


def test_exact_effects_are_those_of_the_people(sqlite: MetadataStore, tmp_path: Path) -> None:
    made, truth = history(800)
    with measuring(tmp_path / "log", made, sqlite) as worth:
        found = worth.exact(days=14)
    effects = {effect.metric: effect for effect in found.effects}
    control, change = truth[CONTROL], truth[CHANGE]
    orders = [[it.orders for it in arm] for arm in (control, change)]
    welch = stats.ttest_ind(orders[1], orders[0], equal_var=False).confidence_interval(0.95)
    assert effects["orders"].difference == pytest.approx(np.mean(orders[1]) - np.mean(orders[0]))
    assert effects["orders"].fixed.low == pytest.approx(welch.low)
    assert effects["orders"].fixed.high == pytest.approx(welch.high)

    def ratio(arm: list[UserWorth], over: str, under: str) -> float:
        return float(sum(getattr(it, over) for it in arm) / sum(getattr(it, under) for it in arm))

    for metric, over, under in (
        ("ctr", "clicked", "shown"),
        ("marketing_cost_share", "discount", "spent"),
    ):
        expected = ratio(change, over, under) - ratio(control, over, under)
        assert effects[metric].difference == pytest.approx(expected), metric
    assert found.sample_ratio.people == {CONTROL: len(control), CHANGE: len(change)}
    assert found.sample_ratio.verdict == "ok"


def test_a_person_changes_one_cell_of_each_histogram_by_one() -> None:
    class Silent(DiscreteLaplace):
        def sample(self, n: int) -> np.ndarray[Any, Any]:
            return np.zeros(n, np.int64)

    users = {CONTROL: [UserWorth(1, 0, 0, 0.0, 0.0)], CHANGE: []}
    before = release_week(users, 0, 1.0, Silent(2, "1"))
    rng = np.random.default_rng(1)
    for _ in range(50):
        shown = int(rng.integers(0, 100))
        wild = UserWorth(shown, int(rng.integers(0, shown + 1)), int(rng.integers(0, 99)), 9e9, 1.0)
        after = release_week({**users, CHANGE: [wild]}, 0, 1.0, Silent(2, "1"))
        for name in ("clicks", "orders"):
            moved = np.array(getattr(after, name)[CHANGE]) - np.array(getattr(before, name)[CHANGE])
            assert np.abs(moved).sum() == (1 if name == "orders" or shown else 0)
            assert getattr(after, name)[CONTROL] == getattr(before, name)[CONTROL]


def test_the_stated_error_covers_noise_and_sampling() -> None:
    """Over many weeks the released difference varies by no more than its stated error."""
    rng, noise = np.random.default_rng(6), noise_of_week(0.3)
    differences, errors = [], []
    for _ in range(120):
        users = {
            arm: [
                UserWorth(2, int(clicked), int(orders), 0.0, 0.0)
                for clicked, orders in zip(
                    rng.binomial(2, 0.3, 500), rng.binomial(3, 0.2, 500), strict=True
                )
            ]
            for arm in (CONTROL, CHANGE)
        }
        samples = released_samples(release_week(users, 0, 0.3, noise))
        arms = [samples[arm]["orders"] for arm in (CONTROL, CHANGE)]
        differences.append(arms[1].value - arms[0].value)
        errors.append(sum(arm.variance / arm.units for arm in arms))
    spread = float(np.var(differences))
    assert abs(np.mean(differences)) < 4 * (spread / 120) ** 0.5
    assert 0.75 * spread < np.mean(errors) < 2.5 * spread
    sampling = 2 * 3 * 0.2 * 0.8 / 500
    assert np.mean(errors) > 1.3 * sampling, "the noise is part of it"


def test_a_week_is_drawn_and_charged_once(sqlite: MetadataStore, tmp_path: Path) -> None:
    charged: list[Query] = []

    def refuse(queries: Iterable[Query]) -> None:
        raise BudgetError("no room")

    made, truth = history(400)
    with (
        measuring(tmp_path / "a", made, sqlite, charge=refuse) as worth,
        pytest.raises(BudgetError),
    ):
        worth.released()
    assert not sqlite.fetch(worth_releases.select())
    with measuring(tmp_path / "b", made, sqlite, charge=charged.extend) as worth:
        first = worth.released()
    with measuring(tmp_path / "c", [], sqlite, charge=charged.extend) as worth:
        second = worth.released()
    assert first.effects == second.effects
    assert [query.purpose for query in charged] == ["rollouts"] * 7
    assert (first.since, first.until, first.epsilon) == (MONDAY, MONDAY + WEEK, 1.0)
    assert {effect.metric for effect in first.effects} == {"ctr", "orders"}
    for arm, people in first.sample_ratio.people.items():
        assert abs(people - len(truth[arm])) < 120  # five cells of scale 2


def test_nothing_is_released_without_leave(sqlite: MetadataStore, tmp_path: Path) -> None:
    with measuring(tmp_path / "log", [], sqlite, epsilon=0.0) as worth:
        assert worth.released().reason == NOT_RELEASED
    with measuring(tmp_path / "none", [], sqlite, holdout=0.0) as worth:
        assert worth.exact(days=7).reason == NO_HOLDOUT


def test_who_is_held_out_gets_what_strangers_get(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    chosen = RecommendSettings(holdout=0.5, anonymous_minimum=1)
    settings = replace(settings, recommend=chosen, engine=EngineSettings(commit_ms=20))
    people = [f"p{number}" for number in range(12)]
    experiment = experiment_at(HOLDOUT, 0.5)
    held = {person for person in people if assign(experiment, person).arm == CONTROL}
    assert 0 < len(held) < len(people)
    with Live(Platform.open(settings, build)) as live:
        items = [{"item_id": f"i{number}", "price": 1.0} for number in range(40)]
        assert live.http.put("/v1/items", json=items).status_code == 202
        rng, sent = np.random.default_rng(2), []
        for number, person in enumerate(people * 8):
            own = people.index(person) * 3 + int(rng.integers(3))
            sent.append(view(0, person, event_id=f"e{number}", type="purchase", item_id=f"i{own}"))
        assert live.http.post("/v1/events", json=sent).json()["accepted"] == len(sent)

        def ask(**about: Any) -> dict[str, Any]:
            answer = live.http.post("/v1/recommend", json={"count": 5, **about})
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        def ids(answer: dict[str, Any]) -> list[str]:
            return [item["item_id"] for item in answer["items"]]

        wait_until(lambda: len(ids(ask())) == 5)
        stranger = ids(ask())
        answers = {person: ask(user_id=person) for person in people}
        for person, answer in answers.items():
            arm = CONTROL if person in held else CHANGE
            assert answer["variant"][HOLDOUT] == arm
            assert person not in held or ids(answer) == stranger
        assert any(ids(answers[person]) != stranger for person in {*people} - held)
        (log,) = live.platform.backend.partitions()

        def logged() -> dict[str, Event]:
            entries = [decode_entry(payload) for _, payload in log.read(log.begin, 10_000)]
            return {
                str(it.user_id): it
                for it in entries
                if isinstance(it, Event) and it.type == "impression" and it.user_id
            }

        wait_until(lambda: {*logged()} == {*people})
        for person, shown in logged().items():
            arm = CONTROL if person in held else CHANGE
            assert shown.properties["rollouts"] == [f"{HOLDOUT}:{arm}"]
            assert shown.properties["rollout_shares"] == [0.5]
            assert person not in held or shown.properties.get("arm") is None
        told = live.http.get("/v1/worth").json()
        assert (told["source"], told["sample_ratio"]["expected"]) == (
            "exact",
            {
                CONTROL: 0.5,
                CHANGE: 0.5,
            },
        )
        assert live.http.get("/v1/worth?source=released").json()["reason"] == NOT_RELEASED
