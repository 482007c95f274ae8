"""Released read-outs: days that the clock closes, costs, budgets, refusals, noise-aware numbers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.platform.experiment_metrics.naive import BEGIN, DAY, HOUR, KEY
from tests.platform.experiment_metrics.released_support import (
    CHANCE,
    DRAWN,
    METRICS,
    Silent,
    bought,
    changed,
    shown,
    without,
)
from tests.platform.memory_log import log_of

from tactful.errors import ConfigError
from tactful.experiment_metrics import released_readout as readout_module
from tactful.experiment_metrics.definitions import MetricSet, load_metrics
from tactful.experiment_metrics.errors import MetricError
from tactful.experiment_metrics.registrations import MetricRegistrations
from tactful.experiment_metrics.released_cells import MetricRelease, grid_of, released_outcomes
from tactful.experiment_metrics.released_days import ReleasedDays, closed_days
from tactful.experiment_metrics.released_readout import (
    NO_DAY,
    NO_PAST,
    NOT_RELEASED,
    ReleasedReadOuts,
)
from tactful.experiments.baseline import ExactOutcomes
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import metric_releases
from tactful_privacy.ledger.budget import Budget
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.query import Query
from tactful_streaming.contract.log_entries import Entry

_FIRST = BEGIN // DAY


def history(people: int, days: int = 3) -> list[Entry]:
    """Return exposures of some days; `new` makes more people buy."""
    rng = random.Random(3)
    made: list[Entry] = []
    for number in range(people):
        person, at = f"p{number}", BEGIN + (number % days) * DAY + HOUR
        arm = "new" if rng.random() < 0.5 else "old"
        made.append(shown(person, arm, at))
        if rng.random() < (0.5 if arm == "new" else 0.25):
            made.append(bought(person, at + HOUR, rng.choice([5.0, 20.0, 500.0])))
    return sorted(made, key=lambda entry: entry.timestamp)


class Shop:
    """A log, a database, a ledger and a clock."""

    def __init__(self, metadata: MetadataStore, entries: Sequence[Entry], **more: Any) -> None:
        self.metadata, self.entries = metadata, entries
        self.now = BEGIN
        self.charged: list[Query] = []
        self.definitions: MetricSet = more.pop("definitions", load_metrics(METRICS))
        self.log = log_of(entries)
        self.charge: Any = self._note
        self.more = more

    def _note(self, queries: Iterable[Query]) -> None:
        self.charged += queries

    def readouts(self, days: ReleasedDays | None = None) -> ReleasedReadOuts:
        return ReleasedReadOuts(
            lambda: self.definitions,
            MetricRegistrations(self.metadata, clock=lambda: self.now),
            days or ReleasedDays(self.metadata, charge=self.charge),
            ExactOutcomes(lambda: [self.log]),
            clock=lambda: self.now,
            **self.more,
        )


def silent_days(metadata: MetadataStore) -> ReleasedDays:
    """Return days whose cells are exact."""
    return ReleasedDays(
        metadata,
        charge=lambda queries: None,
        noise=lambda epsilon: Silent(1, epsilon),
        chance=lambda size: CHANCE,
    )


def test_days_close_by_the_clock_and_are_drawn_once(database: MetadataStore) -> None:
    # With 3,000 people, the noise of a draw changes an assertion below less than once in 10¹² runs.
    shop = Shop(database, history(3_000))
    shop.now = BEGIN + 2 * DAY + HOUR - 1  # the windows of a day, and an hour for late events
    before = shop.readouts().of_key(KEY)
    assert before.reason == NO_DAY and not shop.charged
    shop.now += 1
    first = shop.readouts().of_key(KEY)
    assert first.source == "released" and first.until == BEGIN + DAY
    assert {effect.metric for effect in first.effects} <= {"buyers", "spend", "spend_per_order"}
    shop.now = BEGIN + 12 * DAY
    once, again = shop.readouts().of_key(KEY), shop.readouts().of_key(KEY)
    assert once == again and once.until == BEGIN + 10 * DAY
    assert {effect.metric for effect in once.effects} >= {"buyers", "spend"}
    effect = next(it for it in once.effects if it.metric == "buyers")
    assert effect.fixed.low is not None and effect.fixed.high is not None
    assert 0 < effect.fixed.low < effect.fixed.high < 0.5
    assert effect.role == "goal" and once.epsilon == 1
    assert len({point.at for point in once.series if point.metric == "buyers"}) > 5


def test_the_cost_is_shown_before_and_charged_by_metric_and_day(sqlite: MetadataStore) -> None:
    shop = Shop(sqlite, history(60))
    cost = shop.readouts().cost(KEY)
    assert cost.epsilon == 1.0 and cost.metrics == dict.fromkeys(
        ("buyers", "spend", "orders", "back"), 0.25
    )
    assert cost.next_at["buyers"] == BEGIN + 2 * DAY + HOUR and set(cost.waiting.values()) == {0}
    shop.now = BEGIN + 3 * DAY + HOUR
    cost = shop.readouts().cost(KEY)
    assert not shop.charged
    assert cost.waiting == {"buyers": 2, "spend": 2, "orders": 2, "back": 1}
    assert cost.charged_days == {"buyers": 3, "spend": 3, "orders": 3, "back": 3}
    shop.readouts().of_key(KEY)
    names = {query.name for query in shop.charged}
    assert len(names) == sum(cost.charged_days.values())
    by_day: dict[int, Fraction] = {}
    for query in {query.name: query for query in shop.charged}.values():
        by_day[query.first_day] = by_day.get(query.first_day, Fraction(0)) + query.epsilon
        assert query.purpose == "rollouts"
    assert set(by_day.values()) == {Fraction(1)}
    assert shop.readouts().cost(KEY).days == {"buyers": 2, "spend": 2, "orders": 2, "back": 1}


def test_a_budget_that_is_used_up_keeps_what_was_drawn(
    sqlite: MetadataStore, tmp_path: Path
) -> None:
    shop = Shop(sqlite, history(300))
    ledger = Ledger(tmp_path / "ledger.db", budgets=[Budget(Fraction(1))])
    shop.charge = ledger.charge
    shop.now = BEGIN + 3 * DAY
    assert shop.readouts().of_key(KEY).until == BEGIN + DAY
    day = _FIRST + 3
    ledger.charge([Query("other", day, day, Fraction(1))])
    shop.now = BEGIN + 20 * DAY
    found = shop.readouts().of_key(KEY)
    assert found.until is not None and found.until <= BEGIN + 3 * DAY
    assert any("no further day is released" in note for note in found.notes)
    assert shop.readouts().of_key(KEY).effects == found.effects
    ledger.close()


def test_the_reason_is_given_for_each_number_that_is_not_released(sqlite: MetadataStore) -> None:
    shop = Shop(sqlite, history(300))
    shop.now = BEGIN + 9 * DAY
    found = shop.readouts().of_key(KEY)
    notes = {note.partition(":")[0] for note in found.notes}
    assert {"prices", "clicks", "clicks_per_order"} <= notes
    text = "\n".join(found.notes)
    assert "without a cap" in text and "quantile" in text
    assert "cuped is not released" in text and "segments are not released" in text
    assert not found.segments and not any(effect.adjusted for effect in found.effects)
    assert "prices" in shop.readouts().cost(KEY).refused


def test_a_changed_metric_leaves_out_the_days_of_its_former_form(sqlite: MetadataStore) -> None:
    shop, days = Shop(sqlite, history(600)), silent_days(sqlite)
    shop.now = BEGIN + 9 * DAY
    shop.readouts(days).of_key(KEY)
    shop.definitions = changed(cap=("cap: 40", "cap: 80"))
    found = shop.readouts(days).of_key(KEY)
    metrics = {effect.metric for effect in found.effects}
    assert "buyers" in metrics and not metrics & {"spend", "spend_per_order"}


def test_no_day_is_drawn_once_the_log_has_lost_the_beginning(sqlite: MetadataStore) -> None:
    shop = Shop(sqlite, history(300))
    shop.now = BEGIN + 9 * DAY
    shop.log.begin = 5
    found = shop.readouts().of_key(KEY)
    assert found.reason == NO_PAST and not shop.charged
    kept = Shop(sqlite, history(300), keeps_ms=5 * DAY)
    kept.now = BEGIN + 9 * DAY
    assert kept.readouts().of_key(KEY).reason == NO_PAST
    assert kept.readouts().cost(KEY).reason == NO_PAST


def test_an_empty_shop_and_unknown_arms_have_reasons(sqlite: MetadataStore) -> None:
    empty = Shop(sqlite, [])
    empty.now = BEGIN + 9 * DAY
    found = empty.readouts().of_key(KEY)
    assert found.effects == [] and found.reason
    empty.definitions = changed(arms=("    arms: {old: 0.5, new: 0.5}\n", ""))
    with pytest.raises(ConfigError, match="arms of experiment 'checkout' are unknown"):
        empty.readouts().of_key(KEY)
    with pytest.raises(ConfigError, match="no analysis names experiment 'other'"):
        empty.readouts().cost("other")
    empty.definitions = changed(epsilon=("    epsilon: 1\n", ""))
    empty.more["arms"] = lambda key: {"old": 0.5, "new": 0.5}
    assert empty.readouts().of_key(KEY).reason == NOT_RELEASED
    assert empty.readouts().cost(KEY).reason == NOT_RELEASED


_FEWER = ("    secondary: [spend_per_order, back, clicks, clicks_per_order, prices]\n", "")
_START = "start: 2023-11-15"
_CHANGES = {
    "a later start": ({}, {"start": (_START, "start: 2023-11-17")}),
    "an earlier start": ({"start": (_START, "start: 2023-11-17")}, {}),
    "further metrics": ({"fewer": _FEWER}, {}),
    "fewer metrics": ({}, {"fewer": _FEWER}),
    "a smaller epsilon": ({}, {"epsilon": ("epsilon: 1", "epsilon: 0.5")}),
    "another cap": ({}, {"cap": ("cap: 40", "cap: 80")}),
    "another name": ({}, {"name": ("buyers", "payers")}),
}


def losses(metadata: MetadataStore, changes: Sequence[dict[str, Any]]) -> list[Fraction]:
    """Return the loss of each person in all days that are drawn while definitions change."""
    entries: list[Entry] = []
    for number, person in enumerate(("ada", "王")):
        for day in (number, number + 2, number + 3):
            at = BEGIN + day * DAY + HOUR
            entries += [shown(person, "new", at), bought(person, at + HOUR)]
    entries.sort(key=lambda entry: entry.timestamp)

    def drawn(known: Sequence[Entry]) -> dict[str, dict[int, MetricRelease]]:
        metadata.change(lambda connection: connection.execute(sa.delete(metric_releases)))
        shop, days = Shop(metadata, known), silent_days(metadata)
        for number, change in enumerate(changes):
            shop.definitions, shop.now = changed(**change), BEGIN + (5 + 3 * number) * DAY
            shop.readouts(days).of_key(KEY)
        return days.all(KEY)

    whole, found = drawn(entries), []
    for person in ("ada", "王"):
        others = drawn(without(entries, person))
        found.append(
            sum(
                Fraction(release.epsilon) * abs(count - fewer)
                for name, days in whole.items()
                for day, release in days.items()
                for arm, cells in release.cells.items()
                for count, fewer in zip(cells, others[name][day].cells[arm], strict=True)
            )
            or Fraction(0)
        )
    return found


@pytest.mark.parametrize("name", _CHANGES)
def test_changed_definitions_cost_a_person_no_more_than_the_epsilon(
    name: str, sqlite: MetadataStore
) -> None:
    assert 0 < max(losses(sqlite, _CHANGES[name])) <= 1


@pytest.mark.parametrize("name", ["a later start", "an earlier start", "further metrics"])
def test_days_without_regard_to_those_drawn_before_cost_more(
    name: str, sqlite: MetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_closed(plan: Any, drawn: Any, held: Any, now: int) -> dict[str, list[int]]:
        closed = {key: closed_days(metric, plan.start, now) for key, metric in drawn.items()}
        return {key: [day for day in days if day not in held.get(key, {})]
                for key, days in closed.items()}  # fmt: skip

    monkeypatch.setattr(readout_module, "due_days", all_closed)  # the planted bugs
    monkeypatch.setattr(readout_module, "first_time", lambda start, held: start)
    assert max(losses(sqlite, _CHANGES[name])) > 1


def test_released_verdicts_have_roles_corrections_and_marks(sqlite: MetadataStore) -> None:
    shop, days = Shop(sqlite, history(1_500)), silent_days(sqlite)
    MetricRegistrations(sqlite, clock=lambda: BEGIN).register(shop.definitions, by="ann")
    shop.now = BEGIN + 12 * DAY
    found = {effect.metric: effect for effect in shop.readouts(days).of_key(KEY).effects}
    assert not any(effect.exploratory for effect in found.values())
    assert {"buyers", "spend", "spend_per_order"} <= found.keys()
    assert found["buyers"].role == "goal" and found["spend_per_order"].role == "secondary"
    assert found["buyers"].verdict == "higher" and (found["buyers"].p or 0) < 1e-6
    shop.definitions = changed(goals=("goals: [buyers, spend]", "goals: [buyers]"))
    late = {effect.metric: effect for effect in shop.readouts(days).of_key(KEY).effects}
    assert late["buyers"].exploratory and not late["spend_per_order"].exploratory


def test_the_rarer_outcome_counts_for_a_verdict() -> None:
    cells: dict[str, tuple[int, ...]] = {"old": (900, 40, 7, 3, 2)}
    orders = DRAWN["orders"]
    release = MetricRelease(epsilon="1/4", definition="", grid=grid_of(orders), cells=cells)
    assert released_outcomes(orders, [release, release], "old") == 2 * 52
    share = MetricRelease(epsilon="1/4", definition="", grid=(0.0, 1.0), cells={"old": (5, 900)})
    assert released_outcomes(DRAWN["buyers"], [share], "old") == 5


def test_an_epsilon_needs_a_start_and_a_sensible_value() -> None:
    for start in ("", "    start: 2023-11-15T08:00\n"):
        with pytest.raises(MetricError, match="epsilon releases whole days"):
            changed(start=("    start: 2023-11-15\n", start))
    for wrong in ("0", "-1", "100", "much"):
        with pytest.raises(MetricError, match=r"epsilon"):
            changed(epsilon=("epsilon: 1\n", f"epsilon: {wrong}\n"))


def test_the_start_of_these_tests_is_the_begin_of_their_logs() -> None:
    assert datetime(2023, 11, 15, tzinfo=UTC).timestamp() * 1000 == BEGIN
