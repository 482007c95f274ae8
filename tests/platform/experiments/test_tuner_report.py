"""Tuners are reported with their bounds, and the regret is that of the world they acted in."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.platform.rerank.test_tuned_objective import made, probed_log
from tests.platform.shop import BEGIN, HOUR, Clock, write_log

from tactful.experiments.definitions import RolloutDefinition
from tactful.experiments.store import RolloutStore
from tactful.experiments.tuner import read_probed, write_probe
from tactful.experiments.tuner_report import NO_NOISE, TOO_FEW, TunerReports, regret_of
from tactful.metadata.store import MetadataStore
from tactful.rerank.tuned_objective import EVALUATION, Tuner, TunerEvaluation, network_check
from tactful_bandits.tuner.weight_bounds import WeightBounds
from tactful_streaming.contract.log_entries import Event


@pytest.mark.slow
@pytest.mark.parametrize("gain", [0.3, 0.0])
def test_the_regret_covers_the_truth(gain: float, tmp_path: Path) -> None:
    candidate, probe = made(tmp_path / "tuner"), tmp_path / "probe"
    write_probe(candidate, probe, noise=0.3)
    with contextlib.closing(probed_log(candidate, probe, tmp_path / "log", gain=gain)) as log:
        until = BEGIN + 2 * HOUR
        lists = read_probed(log, "probe", since=BEGIN, until=until, types=("click",), lasts=HOUR)
    found, reason = regret_of(lists, Tuner(probe))
    assert found is not None, reason
    # A click has the probability 0.4 + gain · drawn[1]; the best fixed arm has 0.3 more of it.
    assert found.interval.low is not None and found.interval.high is not None
    assert found.interval.low <= 0.3 * gain <= found.interval.high
    if gain:
        assert found.best == "more price"
        assert found.interval.low > 0
    arms = {arm.name: arm for arm in found.arms}
    assert len(arms) == 12
    assert arms["champion"].value == pytest.approx(0.4, abs=0.05)
    # Kish's size of weights of a normal that is moved by its deviation: n / e.
    assert arms["more price"].effective == pytest.approx(6_000 / np.e, rel=0.2)


def test_without_draws_there_is_no_regret(tmp_path: Path) -> None:
    assert regret_of([], Tuner(made(tmp_path / "tuner"))) == (None, TOO_FEW)


def test_bounds_hold_every_weight_and_are_reached(tmp_path: Path) -> None:
    from tactful.experiments.tuner_report import weight_ranges

    tuner = Tuner(made(tmp_path / "tuner"))
    ranges = weight_ranges(tuner, BEGIN)
    bounds = WeightBounds(tuner.manifest.champion, reach=tuner.manifest.reach)
    actions = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], (5_000, len(ranges)))
    weights = bounds.weights(actions)
    for column, about in zip(weights.T, ranges, strict=True):
        assert about.low == pytest.approx(column.min())
        assert about.high == pytest.approx(column.max())
        assert about.low <= about.champion <= about.high


def test_analysts_get_weights_and_no_outcome(sqlite: MetadataStore, tmp_path: Path) -> None:
    directory, clock = made(tmp_path / "tuner"), Clock()
    store = RolloutStore(sqlite, clock=clock)
    definition = RolloutDefinition(key="tuned", change={"tuner": str(directory)}, start=True)
    store.apply(definition, by="ann", reason="r")
    gone = RolloutDefinition(key="gone", change={"tuner": str(tmp_path / "none")})
    store.apply(gone, by="ann", reason="r")
    evaluation = TunerEvaluation(
        verdict="better",
        gain=0.1,
        low=0.05,
        high=0.15,
        effective=900.0,
        lists=2_000,
        reasons=(),
        network=network_check(directory),
        noise=0.2,
    )
    (directory / EVALUATION).write_bytes(msgspec.json.encode(evaluation))
    shown = [
        Event(
            event_id=f"impression:{number}",
            type="impression",
            timestamp=BEGIN + number * HOUR,
            user_id="ann",
            recommendation_id=f"r{number}",
            properties={
                "items": ["i1"],
                "rollouts": [f"tuned:{arm}"],
                "objective": [f"relevance={0.5 + number / 10:g}", "price=0.2"],
            },
        )
        for number, arm in enumerate(("change", "change", "control"))
    ]
    clock.at = BEGIN + 10 * HOUR
    with contextlib.closing(write_log(tmp_path / "log", shown)) as log:
        reports = TunerReports(store, lambda: [log], clock=clock)
        broken, public = reports.all(days=1, exact=False)
        _, trusted = reports.all(days=1, exact=True)
    assert "cannot be read" in broken.reason and str(tmp_path) not in broken.reason
    assert (public.verdict, public.regret, public.reason) == (None, None, "")
    assert not public.series, "the mean of an hour may be that of one person"
    assert len(public.weights) == 5
    assert [point.weights for point in trusted.series] == [
        {"relevance": 0.5, "price": 0.2},
        {"relevance": 0.6, "price": 0.2},
    ]
    assert trusted.verdict is not None and trusted.verdict.current
    assert (trusted.verdict.gain, trusted.reason) == (0.1, NO_NOISE)
