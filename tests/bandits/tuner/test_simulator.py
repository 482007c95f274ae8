"""The simulated shop: reproducible, consistent with itself, calibrated on what it names."""

from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tactful_bandits.errors import PolicyError
from tactful_bandits.tuner.gym_env import MarketEnv, MarketVectorEnv, Reward
from tactful_bandits.tuner.simulator import MarketSettings, MarketSimulator
from tactful_bandits.tuner.weight_bounds import CHAMPION, WeightBounds

PRICES = (0.2, 0.8, 0.0, 0.0, 0.0)


def _course(seed: int, weights: tuple[float, ...], hours: int = 60) -> np.ndarray:
    market = MarketSimulator(seed)
    rows = []
    for _ in range(hours):
        state = market.state[0].copy()
        step = market.step(weights)
        rows.append([*state, step.click_rate[0], step.expected_click_rate[0], step.purchases[0]])
    return np.array(rows)


def test_state_has_the_hour_on_a_circle() -> None:
    hours = len(MarketSettings().traffic)
    angles = np.arctan2(*_course(5, CHAMPION)[:, 2:4].T)
    np.testing.assert_allclose(np.diff(angles) % (2 * np.pi), 2 * np.pi / hours)


def test_what_happens_to_the_shop_does_not_depend_on_the_weights() -> None:
    """And a seed gives one course."""
    ours, theirs = _course(5, CHAMPION), _course(5, PRICES)
    np.testing.assert_array_equal(ours[:, :7], theirs[:, :7])
    assert not np.array_equal(ours[:, 7:], theirs[:, 7:])
    np.testing.assert_array_equal(_course(5, CHAMPION), ours)
    assert not np.array_equal(_course(4, CHAMPION), ours)


def test_arms_of_one_shop_share_its_course_but_no_person() -> None:
    arms = [MarketSimulator(5, people=people) for people in (0, 1)]
    for _ in range(30):
        np.testing.assert_array_equal(arms[0].state[0, :7], arms[1].state[0, :7])
        steps = [arm.step(CHAMPION) for arm in arms]
        assert steps[0].expected_click_rate != steps[1].expected_click_rate
    for seed, people in ((-1, 0), (0, -1)):
        with pytest.raises(PolicyError):
            MarketSimulator(seed, people=people)


def test_environments_differ_by_chance_or_by_weights_alone() -> None:
    apart = MarketSimulator(1, environments=3).step(CHAMPION)
    assert len(set(apart.expected_click_rate)) == 3
    common = MarketSimulator(1, environments=3, common=True)
    for _ in range(20):
        step = common.step([CHAMPION, CHAMPION, PRICES])
    assert step.expected_click_rate[0] == step.expected_click_rate[1]
    assert step.expected_click_rate[0] != step.expected_click_rate[2]


def test_state_has_smoothed_rates() -> None:
    """A fifth of each smoothed rate is the last hour's, without noise of a release."""
    settings = MarketSettings(release_scale=0.0)
    market = MarketSimulator(2, settings=settings)
    clicks, bought = 0.12, 0.02
    for _ in range(3):
        step = market.step(CHAMPION)
        clicks = 0.8 * clicks + 0.2 * step.click_rate[0]
        bought = 0.8 * bought + 0.2 * step.purchases[0] / (settings.sessions * settings.shown)
        assert market.state[0, 7] == pytest.approx(10 * (clicks - 0.12))
        assert market.state[0, 8] == pytest.approx(20 * (bought - 0.02))


def test_clicks_and_purchases_have_their_expectation() -> None:
    market = MarketSimulator(2, environments=4, settings=MarketSettings(drift=0.0))
    clicked, expected, bought, back = np.zeros((4, 4))
    for _ in range(400):
        step = market.step(CHAMPION)
        clicked += step.click_rate
        expected += step.expected_click_rate
        bought += step.purchases
        back += step.returns
        assert (step.returns <= step.purchases).all()
    assert clicked.mean() == pytest.approx(expected.mean(), rel=0.01)
    assert bought.sum() / (clicked.sum() * 640) == pytest.approx(0.25, rel=0.03)
    assert back.sum() / bought.sum() == pytest.approx(0.049, rel=0.15)


def test_prices_matter_in_promotions_and_campaigns_tire() -> None:
    course = _course(7, PRICES, 300)
    champion = _course(7, CHAMPION, 300)
    gain = course[:, 11] / champion[:, 11]
    promotion = course[:, 0] > 0
    assert gain[promotion].mean() > 1.3
    assert gain[~promotion].mean() < 1
    only_campaigns = _course(7, (0.0, 0.0, 0.0, 0.0, 1.0), 300)
    assert only_campaigns[50:, 9].mean() > 1.2 * champion[50:, 9].mean()


@pytest.mark.slow
def test_defaults_are_what_the_data_say(shared_data: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = shared_data / "data" / "online_retail" / "online_retail.parquet"
    lines = pandas.read_parquet(path)
    fees = ["POST", "M", "C2", "DOT", "BANK CHARGES", "PADS", "D", "S", "AMAZONFEE", "CRUK"]
    lines = lines[~lines.stock_code.isin(fees)]
    cancelled = lines.invoice_no.str.startswith("C")
    sold = lines[(lines.quantity > 0) & (lines.unit_price > 0) & ~cancelled]
    settings = MarketSettings()
    invoices = sold.groupby("invoice_no").agg(
        at=("invoice_ts", "first"), customer=("customer_id", "first")
    )
    by_hour = invoices["at"].dt.hour.value_counts(normalize=True)
    ours = dict(zip(range(7, 21), settings.traffic, strict=True))
    assert all(abs(by_hour[hour] - share) < 6e-5 for hour, share in ours.items())
    known = invoices.dropna()
    first = known.groupby("customer")["at"].transform("min") == known["at"]
    assert first.mean() == pytest.approx(settings.new_customers, abs=5e-4)
    returned = -lines[cancelled & (lines.quantity < 0)].quantity.sum() / sold.quantity.sum()
    assert returned == pytest.approx(settings.return_share, abs=5e-4)
    prices = sold.groupby(["stock_code", "unit_price"]).size().reset_index(name="lines")
    usual = prices.sort_values(["lines", "unit_price"], ascending=[True, False])
    usual = usual.groupby("stock_code").unit_price.last()
    discount = 1 - sold.unit_price / sold.stock_code.map(usual)
    mean = (0.1 + settings.deepest_discount) / 2
    assert discount[discount >= 0.1].mean() == pytest.approx(mean, abs=5e-3)


@pytest.mark.filterwarnings("ignore:.*A Box .*space.*:UserWarning")
def test_gymnasium_accepts_the_environment() -> None:
    check_env(MarketEnv(hours=5), skip_render_check=True)
    env = MarketEnv(hours=5, bounds=WeightBounds(CHAMPION, largest_step=0.05))
    env.reset(seed=1)
    previous = np.array(CHAMPION)
    for hour in range(5):
        _, reward, terminated, truncated, info = env.step(np.array([-1.0, 1, 0, 0, 0]))
        assert np.abs(info["weights"] - previous).max() <= 0.05 + 1e-12
        assert info["weights"].sum() == pytest.approx(1)
        assert reward == info["click_rate"]
        assert (terminated, truncated) == (False, hour == 4)
        previous = info["weights"]


def test_vectorised_shops_end_together_and_open_anew() -> None:
    env = MarketVectorEnv(3, hours=4)
    with pytest.raises(PolicyError, match="reset"):
        env.step(np.zeros((3, 5)))
    states, _ = env.reset(seed=9)
    assert states.shape == (3, 10)
    for hour in range(4):
        states, rewards, terminated, truncated, _ = env.step(np.zeros((3, 5)))
        assert not terminated.any()
        assert truncated.all() == (hour == 3)
        assert len(set(rewards)) > 1
    _, rewards, _, truncated, _ = env.step(np.zeros((3, 5)))
    assert not rewards.any()
    assert not truncated.any()


def test_rewards_are_the_stated_combination() -> None:
    market = MarketSimulator(1, environments=2)
    step = market.step(CHAMPION)
    reward = Reward(clicks=2.0, purchases=3.0, margin=0.5, shortfall=4.0, least_margin=0.2)
    for at in range(2):
        kept = (step.purchases[at] - step.returns[at]) / 64
        short = max(0.0, 0.2 - step.margin[at])
        expected = 2 * step.click_rate[at] + 3 * kept + 0.5 * max(step.margin[at], 0) - 4 * short
        assert reward.of(step, 64)[at] == pytest.approx(expected)


def test_weights_stay_within_their_bounds() -> None:
    bounds = WeightBounds((0.5, 0.3, 0.2), reach=0.4, largest_step=0.1)
    np.testing.assert_allclose(bounds.weights([0, 0, 0]), (0.5, 0.3, 0.2))
    rng = np.random.default_rng(0)
    previous = np.array(bounds.champion)
    for _ in range(300):
        weights = bounds.weights(rng.uniform(-3, 3, 3), previous)
        assert weights.sum() == pytest.approx(1)
        assert (weights >= 0).all()
        assert np.abs(weights - previous).max() <= 0.1 + 1e-12
        previous = weights
    np.testing.assert_allclose(WeightBounds((1.0,), reach=1.0).weights([-1.0]), (1.0,))
    for wrong in ([0.0, 0.0], [np.nan, 0, 0]):
        with pytest.raises(PolicyError):
            bounds.weights(wrong)
    for make in (
        lambda: WeightBounds((0.5, 0.4)),
        lambda: WeightBounds((1.2, -0.2)),
        lambda: WeightBounds((1.0,), reach=0),
        lambda: WeightBounds((1.0,), largest_step=0),
        lambda: MarketSettings(new_customers=1.2),
        lambda: MarketSettings(shown=60),
        lambda: MarketSimulator(1, environments=0),
        lambda: MarketSimulator(1).step([1.0]),
    ):
        with pytest.raises(PolicyError):
            make()
