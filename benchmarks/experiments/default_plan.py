"""How often the default plan ships harm, from the definition to the decision.

A definition without any plan is applied by `tactful experiment apply`, which must refuse it where
it has little power, and then with `accept_low_power`. Its rollout is moved by `judge_rollout`, as a
look of a server does: one look an hour, new people every hour, until it ends or for half a year. A
rollout that still waits has shipped nothing.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from benchmarks.experiments.canary import exact_interval
from benchmarks.figures import Figure
from tactful.cli.main import main
from tactful.experiments.store import RolloutStore
from tactful.metadata.store import open_metadata
from tactful_bandits.analysis.samples import Proportion
from tactful_bandits.rollouts.lifecycle import Rollout, StageObservations, judge_rollout

FIGURES = [
    ("default_plan_shipped_harm_max", "1"),
    ("default_plan_shipped_harm10_max", "1"),
    ("default_plan_shipped_harmless_min", "1"),
    ("default_plan_low_power_refused", "1"),
]
_HOUR_MS = 3_600_000
_LONGEST_HOURS = 24 * 180
_SIZES = (1_200, 5_000, 20_000, 100_000)  # people a day
_RATES = (0.12, 0.03)  # share of people who take something


@dataclass(frozen=True)
class Shop:
    """People a day and the share of them who take something."""

    people: int
    rate: float

    def __str__(self) -> str:
        """Return both in words."""
        return f"{self.rate:.0%} of {self.people:,} a day"


def figures(quick: bool) -> list[Figure]:
    """Apply and roll out the default plan in shops of several sizes."""
    runs = 12 if quick else 200
    shops = [Shop(people, rate) for rate in _RATES for people in _SIZES]
    refused = {shop: _applied(shop, refused=True) is None for shop in shops}
    low = [shop for shop in shops if not _has_power(shop)]
    harmed = [shops[4], shops[0]] if quick else shops
    steady = [Shop(20_000, 0.12)] if quick else [shop for shop in shops if shop not in low]
    right = sum(refused[shop] == (shop in low) for shop in shops)
    return [
        _worst(FIGURES[0][0], harmed, 0.2, runs, seed=11),
        _worst(FIGURES[1][0], harmed, 0.1, max(12, runs // 4), seed=12),
        _worst(FIGURES[2][0], steady, 0.0, max(12, runs // 4), seed=13, least=True),
        Figure(
            FIGURES[3][0],
            right / len(shops),
            "1",
            runs=len(shops),
            note=f"refused: {', '.join(str(shop) for shop in shops if refused[shop])}; all others "
            "applied",
        ),
    ]


def _worst(
    name: str, shops: list[Shop], loss: float, runs: int, *, seed: int, least: bool = False
) -> Figure:
    """Return the largest (or least) share of the shops' rollouts that were shipped."""
    rng = np.random.default_rng(seed)
    shares = {}
    for shop in shops:
        applied = _applied(shop)
        assert applied is not None
        ends = [_rolled_out(applied, shop, loss, rng) for _ in range(runs)]
        shares[shop] = sum(end.decision == "ship" for end in ends)
    count = (min if least else max)(shares.values())
    low, high = exact_interval(count, runs)
    each = "; ".join(f"{shop}: {shipped}" for shop, shipped in shares.items())
    note = f"true loss of {loss:.0%}; shipped of {runs} each: {each}; exact interval 95 %"
    return Figure(name, count / runs, "1", low, high, runs, note)


def _applied(shop: Shop, *, refused: bool = False) -> Rollout | None:
    """Apply the default plan by the command line; None if that refuses it."""
    definition = {"key": "default", "change": {"diversity": {"strength": 1}}, "start": True}
    if not refused:
        definition["accept_low_power"] = "measured"
    with tempfile.TemporaryDirectory() as directory:
        file, data = Path(directory, "rollouts.yaml"), Path(directory, "data")
        data.mkdir(mode=0o700)
        file.write_text(json.dumps([definition]))
        words = ["experiment", "apply", str(file), "--data", str(data), *_given(shop)]
        called = CliRunner().invoke(main, words)
        if called.exit_code:
            assert "would not find a harmful change" in called.output, called.output
            return None
        metadata = open_metadata(data / "metadata.db")
        stored = RolloutStore(metadata, clock=lambda: 0).find("default")
        metadata.close()
    assert stored is not None
    return stored.rollout


def _has_power(shop: Shop) -> bool:
    """Return whether `tactful experiment plan` finds the default plan strong enough."""
    with tempfile.TemporaryDirectory() as directory:
        file, data = Path(directory, "rollouts.yaml"), Path(directory, "data")
        data.mkdir(mode=0o700)
        file.write_text("- {key: default, change: {diversity: {strength: 1}}}\n")
        words = ["experiment", "plan", str(file), "--data", str(data), "--json"]
        called = CliRunner().invoke(main, [*words, *_given(shop)])
    assert called.exit_code == 0, called.output
    return all(it["power"] >= 0.8 for it in json.loads(called.output)[0]["guardrails"])


def _given(shop: Shop) -> list[str]:
    return ["--people-per-day", str(shop.people), "--rate", str(shop.rate)]


def _rolled_out(rollout: Rollout, shop: Shop, loss: float, rng: np.random.Generator) -> Rollout:
    begun, stage = rollout.since, rollout.stage
    rates = np.array([shop.rate, shop.rate * (1 - loss)])
    totals = np.zeros((2, 2), int)
    for hour in range(1, _LONGEST_HOURS + 1):
        if rollout.stage != stage:
            totals, stage = np.zeros((2, 2), int), rollout.stage
        people = shop.people // 24
        change = rng.binomial(people, rollout.share)
        users = np.array([people - change, change])
        totals += [users, rng.binomial(users, rates)]
        seen = _observed(totals) if rollout.share < 1 else StageObservations((0, people))
        rollout = judge_rollout(rollout, seen, at=begun + hour * _HOUR_MS).rollout
        if rollout.state != "canary":
            break
    return rollout


def _observed(totals: np.ndarray) -> StageObservations:
    """Return users and takers, ``[2, arms]``, as a look counts them."""
    (control, change), (took, changed) = totals.tolist()
    pair = None
    if min(control, change) >= 2:
        pair = Proportion(control, took), Proportion(change, changed)
    return StageObservations((control, change), {"takers": pair})
