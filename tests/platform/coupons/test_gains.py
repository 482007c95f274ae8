"""The gain of a coupon: which model is chosen, how it is stored, and that decisions use it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.platform.coupons.test_coupons import Bench, action, campaign, people_of
from tests.platform.shop import BEGIN

from tactful.coupons.decisions import CouponIssuer, propensity_of
from tactful.coupons.definitions import WITHHELD
from tactful.coupons.gain_fit import DrawnUsers, GainFit, choose_gain, drawn_users
from tactful.coupons.gain_model import FOLDER, Gain, GainModel, InstalledGains, write_gain
from tactful.coupons.report import CouponOutcomes
from tactful.errors import ConfigError
from tactful.event_log.impressions import OFFER
from tactful.metadata.store import MetadataStore

NAMES = ("visits", "orders", "share")


def simulated(
    seed: int, people: int, truth: Callable[[np.ndarray], np.ndarray]
) -> tuple[DrawnUsers, np.ndarray]:
    """Users whose true gain is known."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.gamma(2, 2, people), rng.poisson(3, people), rng.random(people)])
    offered = (rng.random(people) < 0.6).astype(np.float64)
    gain = truth(x)
    value = 5 + 2 * x[:, 0] + 4 * (x[:, 2] > 0.5) + offered * gain + rng.normal(0, 4, people)
    return DrawnUsers(x, offered, value, np.full(people, 0.6)), gain


def the_middle(x: np.ndarray) -> np.ndarray:
    return 8.0 * ((x[:, 2] > 0.35) & (x[:, 2] < 0.65))


def a_line(x: np.ndarray) -> np.ndarray:
    return 1.5 * x[:, 0] - 2


def fitted(users: DrawnUsers, groups: int = 4, trees: int = 3) -> GainFit:
    return choose_gain(
        users, NAMES, campaign="cart", margin=0.5, at=BEGIN, groups=groups, trees=trees
    )


@pytest.mark.slow
def test_the_forest_is_chosen_where_only_the_middle_reacts() -> None:
    users, _ = simulated(1, 2_400, the_middle)
    found = fitted(users)
    assert found.chosen.kind == "forest" and found.comparison is not None
    assert found.comparison.qini_gain.low > 0 and found.comparison.uplift_gain.low > 0
    others, gain = simulated(2, 2_000, the_middle)
    errors = [
        math.sqrt(np.mean((Gain(model).of_all(others.features) - gain) ** 2))
        for model in (found.linear, found.chosen)
    ]
    assert errors[1] < 0.6 * errors[0]
    groups = found.groups
    assert groups[-1].measured - groups[0].measured > 3
    assert groups[0].interval.low < groups[0].measured < groups[0].interval.high


def test_the_linear_model_stays_where_nothing_is_better() -> None:
    users, gain = simulated(3, 2_400, a_line)
    found = fitted(users)
    assert found.chosen is found.linear and found.forest is not None
    error = np.mean((Gain(found.chosen).of_all(users.features) - gain) ** 2)
    assert error < 0.6
    few = fitted(users.part(np.arange(2_400) < 900))
    assert few.chosen.kind == "linear" and few.comparison is None and len(few.groups) == 5


@pytest.mark.slow  # five fits with all trees: 20 s
def test_hillstrom_keeps_the_linear_gain(shared_data: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(shared_data / "data" / "hillstrom" / "hillstrom.parquet").to_pandas()
    kept = rows["segment"] != "Mens E-Mail"
    offered = np.asarray(rows["segment"] != "No E-Mail")[kept].astype(np.float64)
    columns = [np.asarray(rows[name])[kept] for name in ("recency", "history", "newbie")]
    value = np.asarray(rows["visit"])[kept].astype(np.float64)
    x = np.column_stack(columns).astype(np.float64)
    users = DrawnUsers(x, offered, value, np.full(len(value), offered.mean()))
    assert fitted(users, groups=12, trees=4).chosen.kind == "linear"


def test_one_user_and_many_get_the_same_gain_and_an_interval(tmp_path: Path) -> None:
    users, _ = simulated(4, 1_200, the_middle)
    forest = fitted(users).forest
    assert forest is not None
    gain = Gain(msgspec.json.decode(msgspec.json.encode(forest), type=GainModel))
    together = gain.of_all(users.features[:200])
    single = [gain.of(row) for row in users.features[:200]]
    np.testing.assert_allclose(single, together, rtol=1e-12)
    low, high = gain.interval(users.features[0])
    assert low < gain.of(users.features[0]) < high
    linear = Gain(fitted(users.part(np.arange(1_200) < 500)).linear)
    np.testing.assert_allclose(linear.of(users.features[3]), linear.of_all(users.features)[3])
    assert linear.interval(users.features[0]) == (-math.inf, math.inf)


def test_interval_covers_most_true_gains() -> None:
    users, _ = simulated(5, 3_000, lambda x: np.full(len(x), 2.0))
    forest = fitted(users, groups=8).forest
    assert forest is not None
    gain = Gain(forest)
    inside = [low <= 2.0 <= high for low, high in map(gain.interval, users.features[:200])]
    assert np.mean(inside) > 0.8


def test_users_whose_coupon_was_impossible_are_left_out() -> None:
    explored = np.array([True, True, False, False, False])
    treated = np.array([True, True, False, False, True])
    features, spent = np.zeros((5, 0)), np.arange(5.0)
    logged = np.array([0.6, np.nan, 0.0, 0.6, 0.6])
    seen = CouponOutcomes(treated, explored, explored, spent, np.zeros(5), features, logged)
    users = drawn_users(seen, margin=0.5)
    assert users is not None
    assert users.value.tolist() == [0.0, 0.5, 1.5], "neither without budget nor targeted"
    np.testing.assert_allclose(users.chance, [0.6, 2 / 3, 0.6])
    seen = CouponOutcomes(
        treated[4:], explored[4:], explored[4:], spent[4:], spent[4:], features[4:], logged[4:]
    )
    assert drawn_users(seen, margin=0.5) is None


def linear_model(**weights: float) -> GainModel:
    return GainModel(
        campaign="cart",
        kind="linear",
        features=("spend",),
        weights=weights,
        users=10,
        fitted_at=BEGIN,
        margin=0.5,
    )


def test_an_installed_model_decides_at_once(sqlite: MetadataStore, tmp_path: Path) -> None:
    definition = campaign(features=("spend",), gain={"constant": -1.0}, explore=0.0)
    bench = Bench(tmp_path / "log", sqlite, definition)
    gains = InstalledGains(tmp_path, bench.clock)
    bench.desk = CouponIssuer(
        [definition],
        sqlite,
        [bench.log],
        features=lambda person, at: {"spend": bench.known.get(person, 0.0)},
        clock=bench.clock,
        gain_of=gains,
    )
    first, second, third, last = people_of(definition, "targeted", 4)
    bench.known |= {second: 50.0}
    assert bench.run(action(first))[0].type == WITHHELD
    write_gain(tmp_path / FOLDER, linear_model(spend=0.1))
    bench.clock.at += 6_000
    (made,) = bench.run(action(second))
    assert made.type == OFFER and made.properties["gain"] == pytest.approx(5.0)
    assert made.properties["propensity"] == propensity_of(definition) == 0.0
    (tmp_path / FOLDER / "cart.json").write_text("{}")
    bench.clock.at += 6_000
    (made,) = bench.run(action(third))
    assert made.properties["gain"] == -1.0, "a damaged model leaves the definition's"
    other = msgspec.structs.replace(linear_model(orders=1.0), features=("orders",))
    write_gain(tmp_path / FOLDER, other)
    bench.clock.at += 6_000
    assert bench.run(action(last))[0].properties["gain"] == -1.0, "learnt from other features"


def test_propensities_are_shares_of_the_drawn() -> None:
    assert propensity_of(campaign(holdout=0.2, explore=0.5)) == pytest.approx(0.4 / 0.6)


@pytest.mark.parametrize(
    "model",
    [
        linear_model(),
        linear_model(other=1.0),
        msgspec.structs.replace(linear_model(spend=1.0), kind="forest"),
    ],
)
def test_models_that_do_not_fit_are_refused(model: GainModel) -> None:
    with pytest.raises(ConfigError, match="fit again"):
        Gain(model)


def test_forests_that_do_not_fit_are_refused() -> None:
    users, _ = simulated(6, 1_100, the_middle)
    model = fitted(users, groups=2, trees=1).forest
    assert model is not None and model.forest is not None
    whole = model.forest
    for wrong in (
        msgspec.structs.replace(whole, leaves=whole.leaves[:1]),
        msgspec.structs.replace(whole, columns=[[9] * len(row) for row in whole.columns]),
        msgspec.structs.replace(whole, groups=3),
        msgspec.structs.replace(whole, depth=4),
    ):
        with pytest.raises(ConfigError):
            Gain(msgspec.structs.replace(model, forest=wrong))
