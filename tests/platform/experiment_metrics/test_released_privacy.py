"""Released metrics are private: sensitivity by brute force, noise, charges, planted bugs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from scipy import stats
from tests.platform.experiment_metrics.naive import BEGIN, DAY, HOUR, KEY, random_log
from tests.platform.experiment_metrics.released_support import (
    CHANCE,
    DRAWN,
    EACH,
    Silent,
    bought,
    distance,
    exact_cells,
    keys_of,
    outcomes,
    shown,
    without,
)

from tactful.experiment_metrics import columns as columns_module
from tactful.experiment_metrics import released_cells as cells_module
from tactful.experiment_metrics import released_days as days_module
from tactful.experiment_metrics.released_cells import (
    MetricRelease,
    grid_of,
    noise_of,
    release_cells,
    released_ratio,
    released_sample,
)
from tactful.experiment_metrics.released_days import ReleasedDays
from tactful.flags.exposures import as_exposure
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import metric_releases
from tactful_bandits.analysis.comparison import compare
from tactful_privacy.errors import BudgetError
from tactful_privacy.ledger.query import Query
from tactful_privacy.mechanisms.laplace import DiscreteLaplace
from tactful_streaming.contract.log_entries import Entry, Event

_FIRST = BEGIN // DAY


def largest_distance(logs: int, make: Callable[[int], list[Entry]] = random_log) -> float:
    """Return the largest distance of a metric's cells over logs and their neighbours."""
    largest = 0.0
    for seed in range(logs):
        entries = make(seed)
        whole = exact_cells(entries)
        for key in keys_of(entries):
            neighbour = exact_cells(without(entries, key))
            largest = max(largest, *(distance(whole, neighbour, name) for name in DRAWN))
    return largest


def test_a_key_of_the_log_changes_one_cell_of_a_metric_by_one() -> None:
    assert largest_distance(15) == 1


@pytest.mark.slow  # 600 logs with all of their neighbours take a quarter of a minute
def test_a_key_changes_one_cell_in_many_random_logs() -> None:
    assert largest_distance(600) == 1


def _repeats(seed: int) -> list[Entry]:
    """Return a log in which people share a device and repeat ids of each other's events."""
    entries: list[Entry] = []
    for number in range(4):
        person = f"u{(number + seed) % 4}"
        at = BEGIN + number * HOUR
        entries.append(shown(person, "old" if number % 2 else "new", at, device_id="d"))
        entries.append(bought(person, at + HOUR, event_id="same", sender=None, device_id="d"))
    entries.append(shown("", "old", BEGIN + HOUR, user_id=None, device_id="d"))
    return sorted(entries, key=lambda entry: entry.timestamp)


def test_people_who_share_devices_and_ids_of_events_stay_apart() -> None:
    assert largest_distance(4, _repeats) == 1


def _all_names_count(patch: Any) -> None:
    from tests.platform.experiment_metrics import released_support

    patch.setattr(released_support, "by_key", lambda columns: columns)


def _uncapped(patch: Any) -> None:
    """Add the whole outcome, instead of 1 to the cell of the capped one."""
    cell = cells_module._cell

    class Sums(list[int]):
        def __init__(self, grid: tuple[float, ...]) -> None:
            super().__init__([0] * len(grid))

    def wrong(metric: Any, arms: Any, noise: Any, *, chance: bytes) -> MetricRelease:
        cells = {}
        for arm, held in arms.items():
            counts = Sums(grid_of(metric))
            for outcome in held.values():
                counts[cell(grid_of(metric), outcome, 0.0)] += 1 + int(abs(outcome))
            cells[arm] = tuple(counts)
        return MetricRelease(
            epsilon=str(noise.epsilon), definition="", grid=grid_of(metric), cells=cells
        )

    from tests.platform.experiment_metrics import released_support

    patch.setattr(released_support, "release_cells", wrong)


def _each_exposure_counts(patch: Any) -> None:
    """Count a unit on each day on which it was exposed, not on the first one alone."""
    from tests.platform.experiment_metrics import released_support

    def wrong(seen: Any, metric: str, day: int) -> dict[str, dict[str, float]]:
        arms = days_module.outcomes_of_day(seen, metric, day)
        for arm, held in days_module.outcomes_of_day(seen, metric, day - 1).items():
            arms[arm].update(held)
        return arms

    patch.setattr(released_support, "outcomes_of_day", wrong)


@pytest.mark.parametrize("plant", [_all_names_count, _uncapped, _each_exposure_counts])
def test_planted_bugs_of_the_sensitivity_are_found(
    plant: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert max(largest_distance(5), largest_distance(4, _repeats)) > 1


def test_a_unit_in_two_arms_is_refused_before_noise_is_drawn() -> None:
    metric = DRAWN["buyers"]
    drawn: list[int] = []

    class Watched(DiscreteLaplace):
        def sample(self, n: int) -> Any:
            drawn.append(n)
            return super().sample(n)

    arms = {"old": {"ada": 1.0}, "new": {"ada": 0.0}}
    with pytest.raises(ValueError, match="two arms"):
        release_cells(metric, arms, Watched(1, EACH), chance=CHANCE)
    with pytest.raises(ValueError, match="sensitivity of 2"):
        release_cells(metric, {"old": {}}, Watched(2, EACH), chance=CHANCE)
    assert drawn == []


def test_a_person_who_got_both_arms_is_in_none() -> None:
    entries: list[Entry] = [
        shown("ada", "old", BEGIN),
        shown("ada", "new", BEGIN + 2 * DAY),
        bought("ada", BEGIN + HOUR),
    ]
    assert all(sum(cells) == 0 for cells in exact_cells(entries).values())


def _forged(number: int) -> list[Entry]:
    """Return what a client claims of made-up devices: exposures, and purchases after them."""
    made: list[Entry] = []
    for device in range(number):
        about: dict[str, Any] = {"user_id": None, "device_id": f"f{device}", "sender": "browser"}
        made.append(shown(f"f{device}", "new", BEGIN, **about))
        made.append(bought(f"f{device}", BEGIN + HOUR, **about))
    return made


def test_forged_exposures_change_no_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    true: list[Entry] = [shown("ada", "old", BEGIN), bought("ada", BEGIN + HOUR)]
    assert exact_cells([*true, *_forged(640)]) == exact_cells(true)

    def believing(event: Event) -> Any:
        exposure = as_exposure(event)
        return None if exposure is None else structs.replace(exposure, verified=True)

    monkeypatch.setattr(columns_module, "as_exposure", believing)  # the planted bug
    assert exact_cells([*true, *_forged(640)]) != exact_cells(true)


def test_the_noise_is_the_exact_table_of_the_epsilon() -> None:
    noise = noise_of(EACH)
    assert type(noise) is DiscreteLaplace and (noise.sensitivity, noise.epsilon) == (1, EACH)
    for k in range(30):  # the loss of moving one unit between neighbouring tables
        ratio = noise.probability(k) / noise.probability(k + 1)
        assert 1 <= ratio <= Fraction(str(np.exp(float(EACH)))) * Fraction(1_000_001, 1_000_000)


def test_cells_get_fresh_noise_of_that_distribution() -> None:
    metric, noise = DRAWN["spend"], noise_of(EACH)
    drawn = [
        value
        for _ in range(60)
        for cells in release_cells(
            metric, {"old": {}, "new": {}}, noise, chance=CHANCE
        ).cells.values()
        for value in cells
    ]
    inner = range(-8, 9)
    counts = [drawn.count(k) for k in inner]
    counts.append(len(drawn) - sum(counts))
    shares = [float(noise.probability(k)) for k in inner]
    expected = np.array([*shares, 1 - sum(shares)]) * len(drawn)
    assert stats.chisquare(counts, expected).pvalue > 1e-6


def test_the_chance_between_two_cells_is_unbiased_and_depends_on_no_other_unit() -> None:
    metric = DRAWN["spend"]  # a grid in steps of 4
    silent = Silent(1, EACH)
    units = {f"u{number}": 5.0 for number in range(4_000)}
    alone = release_cells(metric, {"old": {"u7": 5.0}}, silent, chance=CHANCE).cells["old"]
    (cells,) = release_cells(metric, {"old": units}, silent, chance=CHANCE).cells.values()
    mean = float(np.dot(cells, grid_of(metric))) / len(units)
    assert abs(mean - 5.0) < 4 * 1.74 / np.sqrt(len(units))
    del units["u7"]
    (others,) = release_cells(metric, {"old": units}, silent, chance=CHANCE).cells.values()
    assert [a - b for a, b in zip(cells, others, strict=True)] == [*alone]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e12, 1e12), max_size=5), st.sampled_from(sorted(DRAWN)))
def test_any_outcome_stands_in_one_cell(values: list[float], name: str) -> None:
    arms = {"old": {f"u{number}": value for number, value in enumerate(values)}}
    released = release_cells(DRAWN[name], arms, Silent(1, EACH), chance=CHANCE)
    assert sum(released.cells["old"]) == len(values) and min(released.cells["old"]) >= 0


class Order:
    """A ledger and a noise that record what happens first."""

    def __init__(self, refuse: bool = False) -> None:
        self.events: list[str] = []
        self.refuse = refuse
        self.charged: list[Query] = []

    def charge(self, queries: Any) -> None:
        self.events.append("charge")
        if self.refuse:
            raise BudgetError("no room")
        self.charged += queries

    def noise(self, epsilon: Fraction) -> DiscreteLaplace:
        events = self.events

        class Watched(DiscreteLaplace):
            def sample(self, n: int) -> Any:
                events.append("noise")
                return super().sample(n)

        return Watched(1, epsilon)


def _draw_one(metadata: MetadataStore, order: Order, kind: type[ReleasedDays]) -> None:
    days = kind(metadata, charge=order.charge, noise=order.noise)
    entries: list[Entry] = [shown("ada", "old", BEGIN), bought("ada", BEGIN + HOUR)]
    days.draw(KEY, DRAWN["buyers"], [_FIRST], outcomes(entries), EACH)


def test_the_charge_comes_before_the_noise(sqlite: MetadataStore) -> None:
    order = Order()
    _draw_one(sqlite, order, ReleasedDays)
    assert order.events == ["charge", "noise", "noise"]
    _draw_one(sqlite, order, ReleasedDays)  # drawn once
    assert order.events == ["charge", "noise", "noise"]


def test_a_refused_charge_draws_and_stores_nothing(sqlite: MetadataStore) -> None:
    order = Order(refuse=True)
    with pytest.raises(BudgetError):
        _draw_one(sqlite, order, ReleasedDays)
    assert order.events == ["charge"]
    assert sqlite.fetch(sa.select(metric_releases)) == []


def test_noise_before_the_charge_is_found(sqlite: MetadataStore) -> None:
    class Planted(ReleasedDays):
        def _draw(
            self,
            place: tuple[str, int],
            metric: Any,
            arms: Mapping[str, Mapping[str, float]],
            epsilon: Fraction,
            connection: sa.Connection,
        ) -> None:
            release_cells(metric, arms, self._noise(epsilon), chance=CHANCE)
            super()._draw(place, metric, arms, epsilon, connection)

    order = Order(refuse=True)
    with pytest.raises(BudgetError):
        _draw_one(sqlite, order, Planted)
    assert order.events != ["charge"]


def test_a_day_is_charged_once_by_name_for_all_days_of_exposures_that_reach_it() -> None:
    metric = DRAWN["back"]  # a delay of a day and a window of one
    charged = [days_module.charges_of(KEY, metric, day, EACH) for day in (_FIRST, _FIRST + 1)]
    names = [[query.name for query in queries] for queries in charged]
    assert len(names[0]) == 3 and names[0][1:] == names[1][:-1]
    assert {query.epsilon for queries in charged for query in queries} == {EACH}
    long = days_module.charges_of("实验" * 50, metric, _FIRST, EACH)
    assert all(len(query.name) <= 190 for query in long)


@pytest.mark.parametrize("epsilon", ["1/4", "1"])
def test_intervals_cover_the_truth_with_the_noise(epsilon: str) -> None:
    rng = np.random.default_rng(7)
    each = Fraction(epsilon)
    noise = DiscreteLaplace(1, each, entropy=rng.bytes)
    missed = dict.fromkeys(("buyers", "spend", "spend_per_order"), 0)
    rounds, days, units = 300, 7, 400
    law = {
        "buyers": (0.8, 0.2),
        "orders": (0.7, 0.15, 0.08, 0.05, 0.02),
        "spend": (*[0.0] * 9, 0.02, 0.7, *[0.04] * 7, 0.0, 0.0, 0.0),
    }
    for _ in range(rounds):
        held: dict[str, list[MetricRelease]] = {name: [] for name in law}
        for name, shares in law.items():
            for _ in range(days):
                cells = {
                    arm: tuple(
                        (rng.multinomial(units, shares) + noise.sample(len(shares))).tolist()
                    )
                    for arm in ("old", "new")
                }
                grid = grid_of(DRAWN[name])
                held[name].append(
                    MetricRelease(epsilon=epsilon, definition="", grid=grid, cells=cells)
                )
        parts, releases = (DRAWN["spend"], DRAWN["orders"]), (held["spend"], held["orders"])
        for name in missed:
            pair = [
                released_ratio(parts, releases, arm)
                if name == "spend_per_order"
                else released_sample(DRAWN[name], held[name], arm)
                for arm in ("old", "new")
            ]
            assert pair[0] is not None and pair[1] is not None
            interval = compare(pair[0], pair[1], alpha=0.05).fixed_horizon
            missed[name] += not interval.low <= 0 <= interval.high
    # 95 % are to be covered; three standard errors of 300 rounds are 3.8 points.
    assert missed["buyers"] / rounds < 0.09 and missed["spend"] / rounds < 0.09
    assert missed["spend_per_order"] / rounds < 0.05  # too wide by design
