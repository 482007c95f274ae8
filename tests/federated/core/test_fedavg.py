"""The server's arithmetic, on plain vectors and without a model."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_federated.core.fedavg import (
    RoundResult,
    RoundSettings,
    ServerState,
    apply_reports,
    run_rounds,
    sample_cohort,
    start,
)
from tactful_federated.core.server_optimizer import Optimizer
from tactful_federated.errors import HistoryError, SettingsError, WeightsError
from tactful_federated.model.scores import Score, Scores
from tactful_federated.model.vectors import Updates, Vector

PLAIN = RoundSettings(
    cohort=5,
    report_goal=4,
    minimum_reports=2,
    update_norm=10.0,
    optimizer=Optimizer(momentum=0.0, averaging=0.0),
)


def vector(*values: float) -> Vector:
    return np.array(values, dtype=np.float32)


def same(a: ServerState, b: ServerState) -> bool:
    return all(
        np.array_equal(getattr(a.model, name), getattr(b.model, name))
        for name in ("steps", "weights", "velocity", "average")
    )


def applied(reports: Iterable[tuple[int, Any]]) -> tuple[ServerState, Any]:
    return apply_reports(start(vector(0, 0)), range(5), reports, PLAIN)


def test_denominator_stays_the_report_goal_when_devices_drop_out() -> None:
    state, tally = applied([(0, vector(4, 0)), (3, vector(0, 8))])
    assert state.model.weights.tolist() == [1.0, 2.0]
    assert (tally.reports, tally.refused, tally.void) == (2, 0, False)


def test_one_device_moves_the_model_by_at_most_its_share() -> None:
    others = [(device, vector(1, 1)) for device in range(3)]
    without, moved = (applied(sent)[0] for sent in (others, [*others, (4, vector(0, 10))]))
    step = np.linalg.norm(moved.model.weights - without.model.weights)
    assert step == pytest.approx(PLAIN.update_norm / PLAIN.report_goal)


def test_reports_beyond_the_goal_are_not_read() -> None:
    def arriving() -> Updates:
        yield from [(device, vector(1, 0)) for device in range(4)]
        raise AssertionError("read on after the report goal")

    state, tally = applied(arriving())
    assert tally.reports == 4 and state.model.weights.tolist() == [1.0, 0.0]


POISONS = [vector(math.nan, 0), vector(math.inf, 0), vector(10.001, 0), vector(0, 0, 0)]
POISONS += [np.zeros((2, 1), np.float32), np.zeros(2, np.float64), np.zeros(2, np.complex64)]


@pytest.mark.parametrize("poison", [*POISONS, np.array([None, None])])
def test_poisoned_update_is_refused_and_the_others_count(poison: Any) -> None:
    good = [(1, vector(4, 0)), (2, vector(4, 0))]
    state, tally = applied([(0, poison), *good])
    assert same(state, applied(good)[0])
    assert (tally.reports, tally.refused) == (2, 1)


def test_strangers_and_repeated_reports_are_ignored() -> None:
    reports = [(9, vector(9, 9)), (1, vector(4, 0)), (1, vector(4, 0)), (2, vector(4, 0))]
    state, tally = applied(reports)
    assert tally.reports == 2 and state.model.weights.tolist() == [2.0, 0.0]


def test_round_below_the_minimum_is_void() -> None:
    settings = RoundSettings(cohort=5, report_goal=4, minimum_reports=2, update_norm=10.0)
    one = (1, vector(1, 0))
    before, _ = apply_reports(start(vector(0, 0)), range(5), [one, (2, vector(1, 0))], settings)
    after, tally = apply_reports(before, range(5), [one, (2, vector(math.nan, 0))], settings)
    assert (tally.reports, tally.refused, tally.void) == (1, 1, True)
    assert same(after, before) and after.round == before.round + 1


@given(st.permutations(range(4)))
def test_order_of_arrival_does_not_matter(order: list[int]) -> None:
    updates = [vector(0.1, 1e-7), vector(3.3, 1e7 % 9), vector(-0.7, 2), vector(1 / 3, -1)]
    plain, _ = apply_reports(start(vector(1, 1)), range(4), list(enumerate(updates)), PLAIN)
    mixed, _ = apply_reports(start(vector(1, 1)), range(4), [(i, updates[i]) for i in order], PLAIN)
    assert same(plain, mixed)


def test_momentum_and_average_follow_their_formulas() -> None:
    optimizer = Optimizer(learning_rate=0.5, momentum=0.9, averaging=0.15)
    settings = replace(PLAIN, cohort=2, report_goal=2, minimum_reports=1, optimizer=optimizer)
    state = start(vector(0))
    weights = velocity = average = 0.0
    for applied, mean in enumerate((1.0, -2.0, 0.5, 0.0), start=1):
        state, _ = apply_reports(state, [0], [(0, vector(2 * mean))], settings)
        velocity = 0.9 * velocity + mean
        weights += 0.5 * velocity
        decay = min(0.15, applied / (applied + 9))
        average = decay * average + (1 - decay) * weights
        assert state.model.weights[0] == pytest.approx(weights)
        assert state.model.average[0] == pytest.approx(average)
        assert state.model.steps == applied


@given(st.sets(st.integers(0, 10**18), max_size=30), st.integers(0, 5), st.randoms())
def test_cohort_is_drawn_without_replacement_whatever_the_order(
    ids: set[int], seed: int, random: Any
) -> None:
    listed = list(ids)
    drawn = sample_cohort(listed, PLAIN, 3, seed=seed)
    random.shuffle(listed)
    assert drawn == sample_cohort(listed, PLAIN, 3, seed=seed)
    assert len(drawn) == len(set(drawn)) == min(PLAIN.cohort, len(ids))
    assert set(drawn) <= ids


def test_cohorts_differ_by_round_and_take_everybody_in_turn() -> None:
    rounds = [sample_cohort(range(40), PLAIN, number, seed=1) for number in range(200)]
    asked = np.bincount(np.concatenate(rounds), minlength=40)
    # 1,000 draws over 40 devices: 25 each, standard deviation 4.7; seeded, so no false alarm.
    assert asked.min() > 8 and asked.max() < 45


class Fixed:
    """A population whose devices report one vector each."""

    def __init__(self, devices: int) -> None:
        self.devices = devices

    def ids(self) -> Sequence[int]:
        return range(self.devices)

    def train(self, ids: Sequence[int], weights: Vector, round_number: int) -> Updates:
        return [(i, vector(i + round_number, 0.5) - weights) for i in ids]

    def evaluate(self, ids: Sequence[int], weights: Vector, round_number: int) -> Scores:
        return {i: Score(10, 2, 5, 15.0) for i in ids}


def test_progress_sees_every_round_and_a_run_can_be_continued() -> None:
    settings = RoundSettings(cohort=4, report_goal=3, minimum_reports=2, update_norm=1e6)
    seen: list[RoundResult] = []
    first = start(vector(0, 0))
    whole, results = run_rounds(Fixed(8), first, settings, rounds=6, seed=3, progress=seen.append)
    assert seen == results and [r.round for r in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[0] == RoundResult(1, loss=1.5, top1=0.2, top5=0.5, reports=3)
    half, _ = run_rounds(Fixed(8), first, settings, rounds=2, seed=3)
    rest, _ = run_rounds(Fixed(8), half, settings, rounds=4, seed=3)
    assert same(rest, whole) and rest.round == 6


def test_too_few_devices_are_refused_before_a_round() -> None:
    with pytest.raises(HistoryError, match="1 devices are available, but a round needs 2"):
        run_rounds(Fixed(1), start(vector(0, 0)), PLAIN, rounds=1, seed=1)


def test_settings_out_of_range_and_a_poisoned_start_are_refused() -> None:
    for name, values in {
        "minimum_reports": (0, 25),
        "report_goal": (30,),
        "update_norm": (0.0, math.inf, math.nan),
    }.items():
        for value in values:
            with pytest.raises(SettingsError):
                RoundSettings(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(WeightsError):
        start(vector(0, math.nan))
