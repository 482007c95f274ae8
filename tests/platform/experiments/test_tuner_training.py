"""Training in an own environment by the command, and the plan of a probe."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tactful.cli.main import main
from tactful.errors import ConfigError
from tactful.experiments.tuner import ProbedList, evaluate_tuner, plan_probe
from tactful.rerank.tuned_objective import MANIFEST, POLICY, Tuner, TunerManifest
from tactful_bandits.tuner.network import NetworkPolicy
from tactful_bandits.tuner.static_comparison import constant_policy

SHOP = """
import gymnasium, numpy
from gymnasium import spaces
from tactful_bandits.tuner.weight_bounds import WeightBounds

class Shop(gymnasium.Env):
    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.state = 0, numpy.zeros(1, numpy.float32)
        return self.state, {}

    def step(self, action):
        self.at += 1
        return self.state, -float(abs(action[0] - 0.5)), False, self.at >= 50, {}

class NamedShop(Shop):
    objectives, state_names = ("relevance", "price"), ("promotion",)
    bounds = WeightBounds((0.8, 0.2))

class WrongShop(NamedShop):
    state_names = ("promotion", "traffic")

def broken(): raise RuntimeError("no file")
def no_shop(): return 3
def words():
    shop = Shop()
    shop.action_space = spaces.Discrete(2)
    return shop
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("torch")
    pytest.importorskip("gymnasium")
    (tmp_path / "own_shop.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("tactful.experiments.tuner_training._EPISODES", 3)
    return tmp_path


def train(directory: Path, environment: str, *more: str) -> Result:
    command = ["tuner", "train", str(directory), "--environment", environment, *more]
    return CliRunner().invoke(main, [*command, "--steps", "1000", "--json"])


def test_fixed_weights_are_handed_over_where_the_state_says_nothing(shop: Path) -> None:
    directory = shop / "tuner"
    done = train(directory, "own_shop:NamedShop")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["steps"] == 1000 and told["return_minus_static_low"] <= 0
    assert told["verdict"] == "fixed" and set(told["fixed"]) == {"relevance", "price"}
    manifest = Tuner(directory).manifest
    assert manifest.verdict == "fixed" and manifest.trained_in == "own_shop:NamedShop"
    network = NetworkPolicy.from_bytes((directory / POLICY).read_bytes())
    assert network.act([0.9])[0] == pytest.approx(0.5, abs=0.2)
    other = train(directory, "own_shop:NamedShop", "--seed", "1")
    assert other.exit_code != 0 and "with seed 0" in other.output
    again = train(directory, "own_shop:NamedShop", "--no-rivals")
    assert json.loads(again.stdout)["verdict"] == "", "the finished training is read"
    assert train(shop / "plain", "own_shop:Shop", "--no-rivals").exit_code == 0
    with pytest.raises(ConfigError, match="weighs no objectives"):
        Tuner(shop / "plain")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ("own_shop", "write module:factory"),
        ("own_shop:", "write module:factory"),
        ("no_such_module_here:make", "ModuleNotFoundError"),
        ("own_shop:missing", "has no function missing"),
        ("own_shop:broken", "RuntimeError: no file"),
        ("own_shop:no_shop", "returns int, not a gymnasium environment"),
        ("own_shop:words", "action_space is Discrete"),
        ("own_shop:WrongShop", "2 state_names for 1 observations"),
    ],
)
def test_unusable_environments_are_refused_by_name(environment: str, said: str, shop: Path) -> None:
    done = train(shop / "tuner", environment)
    assert done.exit_code == 2, done.output
    assert said in done.output and not (shop / "tuner" / POLICY).exists()


def written(directory: Path, action: list[float]) -> Path:
    """Write a tuner of one action in all states."""
    directory.mkdir()
    manifest = TunerManifest(
        champion=(0.8, 0.2),
        reach=0.5,
        objectives=("relevance", "price"),
        state=("promotion",),
        trained_in="simulator",
    )
    import msgspec

    (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    (directory / POLICY).write_bytes(constant_policy(np.array(action), 1).to_bytes())
    return directory


def probed(people: int, taken: Any, noise: float, seed: int) -> list[ProbedList]:
    rng = np.random.default_rng(seed)
    drawn = noise * rng.standard_normal((people, 2))
    density = -0.5 * (drawn**2).sum(axis=1) / noise**2 - 2 * math.log(
        noise * math.sqrt(2 * math.pi)
    )
    took = rng.random(people) < taken(drawn)
    return [
        ProbedList(f"p{it}", 0, frozenset(), [0.0], drawn[it].tolist(), density[it], took=took[it])
        for it in range(people)
    ]


def test_the_plan_shows_the_change_as_often_as_stated(tmp_path: Path) -> None:
    candidate = written(tmp_path / "tuner", [0.15, 0.0])
    plan = plan_probe(candidate, noise=0.2, taken=0.2, change=0.2)
    expected = math.exp(0.15**2 / 0.2**2)
    assert plan.effective_share == pytest.approx(1 / expected, rel=1e-3)
    # The share of recommendations that are taken rises by a fifth where the candidate acts.
    seen = 0
    for seed in range(30):
        lists = probed(plan.lists, lambda drawn: 0.2 * np.exp(1.2 * drawn[:, 0]), 0.2, seed)
        found = evaluate_tuner(candidate, lists, noise=0.2, change=0.2)
        seen += found.low > 0
    assert 17 <= seen <= 29, "of 30, with a stated 80 %"


def test_too_few_recommendations_give_no_verdict(tmp_path: Path) -> None:
    candidate = written(tmp_path / "tuner", [0.15, 0.0])
    lists = probed(4_000, lambda drawn: 0.2 * np.exp(2.5 * drawn[:, 0]), 0.2, 3)
    found = evaluate_tuner(candidate, lists, noise=0.2, change=0.2)
    assert found.verdict == "better" and found.needed <= 4_000
    strict = evaluate_tuner(candidate, lists, noise=0.2, change=0.05)
    assert strict.verdict == "inconclusive" and strict.needed > 4_000
    assert "4,000 recommendations, and a change of 5% needs" in strict.reasons[-1]


def test_a_candidate_far_away_needs_more_than_anybody_has(tmp_path: Path) -> None:
    candidate = written(tmp_path / "tuner", [0.9, 0.9])
    done = CliRunner().invoke(main, ["tuner", "plan", str(candidate), "--json"])
    assert done.exit_code == 0, done.output
    plans = json.loads(done.stdout)["plans"]
    assert [plan["lists"] for plan in plans] == sorted(
        (plan["lists"] for plan in plans), reverse=True
    )
    assert 20_000 * plans[1]["effective_share"] < 2, "at a noise of 0.2"
    text = CliRunner().invoke(main, ["tuner", "plan", str(candidate)])
    assert "say as much as" in text.output
