"""The tuner in the simulated shop, beside its cheap rivals, and its agent on Pendulum.

All of it is simulated (`MarketSimulator`, default settings): the figures say that the tuner learns
what was put in, and nothing about people. Agents and shops have other seeds in every run; no shop
that anything learnt in is evaluated in.
"""

import gymnasium
import numpy as np
import torch

from benchmarks.figures import Figure
from tactful_bandits.tuner.baselines import (
    Floats,
    StatePolicy,
    best_static,
    linear_contextual,
    linear_policy,
    play,
)
from tactful_bandits.tuner.ddpg import DdpgAgent
from tactful_bandits.tuner.simulator import STATE, MarketSettings
from tactful_bandits.tuner.tuner import (
    TuningCourse,
    make_tuner,
    tune_in_market,
    worst_loss,
)
from tactful_bandits.tuner.weight_bounds import CHAMPION, WeightBounds

PENDULUM = [("ddpg_pendulum_return_min", "1")]
FIGURES = [
    ("tuner_vs_static", "1"),
    ("tuner_vs_linear", "1"),
    ("tuner_vs_oracle", "1"),
    ("oracle_vs_static", "1"),
    ("tuner_vs_champion", "1"),
    ("tuner_worst_loss", "1"),
    ("tuner_worst_loss_where_it_learns", "1"),
    ("tuner_learning_vs_champion", "1"),
    ("tuner_vs_static_rewards_x20", "1"),
    ("tuner_vs_static_half_the_people", "1"),
    ("tuner_price_weight_promotion_ratio", "1"),
]

_BOUNDS = WeightBounds(CHAMPION)
_SHARE = 0.1
_SESSIONS = 128
"""People an hour that are learnt from; chosen on other seeds than those that are shown."""
_EVALUATED = 9000  # first seed of the shops that policies are evaluated in


def pendulum(quick: bool) -> list[Figure]:
    """The worst of the seeds' mean returns."""
    seeds, steps = (1, 3000) if quick else (3, 12_000)
    torch.set_num_threads(1)
    means = sorted(_pendulum_return(seed, steps) for seed in range(seeds))
    note = f"Pendulum-v1, mean of 100 episodes after {steps:,} steps, the worst of {seeds} seeds"
    return [Figure("ddpg_pendulum_return_min", means[0], "1", means[0], means[-1], seeds, note)]


def figures(quick: bool) -> list[Figure]:
    """Train an agent per seed, and compare in shops that nothing learnt in."""
    torch.set_num_threads(1)
    seeds, hours = (1, 1000) if quick else (5, 4000)
    static = best_static(_BOUNDS, 500)
    matrix = linear_contextual(_BOUNDS, 600)
    runs = [_run(seed, hours, static, matrix, varied=not quick) for seed in range(seeds)]
    columns = {name: sorted(run[name] for run in runs) for name in runs[0]}
    what = (
        f"{hours:,} hours of learning from {_SESSIONS} people, {seeds} seeds of agent and shop,"
        " simulated"
    )
    notes = {
        "tuner_vs_static": "click rate over that of the best fixed weights",
        "tuner_vs_linear": "click rate over that of the best weights linear in the state",
        "tuner_vs_oracle": "click rate over that of oracle_vs_static",
        "oracle_vs_static": (
            "click rate over that of the best fixed weights, of what people look at in the state of"
            " each hour, which nobody who learns is told; tastes are not in the state"
        ),
        "tuner_vs_champion": "click rate over that of the champion's weights",
        "tuner_worst_loss": (
            "worst 200 hours: loss of the whole shop against the champion while a tenth of its"
            " people are learnt from; below 0: gain"
        ),
        "tuner_worst_loss_where_it_learns": "the same of that tenth alone",
        "tuner_learning_vs_champion": "click rate of that tenth, exploration included",
        "tuner_vs_static_rewards_x20": "as tuner_vs_static, rewards times 20",
        "tuner_vs_static_half_the_people": f"as tuner_vs_static, from {_SESSIONS // 2} people",
        "tuner_price_weight_promotion_ratio": "weight of price in promotions over that elsewhere",
    }
    found = []
    for name, note in notes.items():
        if name not in columns:
            found.append(Figure(name, None, "1", note="not measured in a quick run"))
            continue
        values = columns[name]
        value = values[-1] if "worst" in name else float(np.mean(values))
        text = f"{note}; {what}"
        found.append(Figure(name, value, "1", values[0], values[-1], seeds, text))
    return found


def _run(
    seed: int, hours: int, static: Floats, matrix: Floats, *, varied: bool
) -> dict[str, float]:
    tuned, course = _tuned(seed, hours)
    ours, promotion, weights = _evaluate(tuned, seed)
    fixed, _, _ = _evaluate(lambda states: np.tile(static, (len(states), 1)), seed)
    linear, _, _ = _evaluate(linear_policy(matrix), seed)
    champion, _, _ = _evaluate(_champion, seed)
    knowing, _, _ = _evaluate(_oracle, seed)
    price = weights[..., 1]
    lost = worst_loss(course.expected_click_rate, course.champion)
    found = {
        "tuner_vs_static": float(ours.mean() / fixed.mean()),
        "tuner_vs_linear": float(ours.mean() / linear.mean()),
        "tuner_vs_oracle": float(ours.mean() / knowing.mean()),
        "oracle_vs_static": float(knowing.mean() / fixed.mean()),
        "tuner_vs_champion": float(ours.mean() / champion.mean()),
        "tuner_worst_loss": _SHARE * lost,
        "tuner_worst_loss_where_it_learns": lost,
        "tuner_learning_vs_champion": float(
            course.expected_click_rate.mean() / course.champion.mean()
        ),
        "tuner_price_weight_promotion_ratio": float(
            price[promotion].mean() / price[~promotion].mean()
        ),
    }
    if varied:
        larger, _, _ = _evaluate(_tuned(seed, hours, reward_scale=20.0)[0], seed)
        found["tuner_vs_static_rewards_x20"] = float(larger.mean() / fixed.mean())
        fewer, _, _ = _evaluate(_tuned(seed, hours, sessions=_SESSIONS // 2)[0], seed)
        found["tuner_vs_static_half_the_people"] = float(fewer.mean() / fixed.mean())
    return found


def _tuned(
    seed: int, hours: int, *, reward_scale: float = 1.0, sessions: int = _SESSIONS
) -> tuple[StatePolicy, TuningCourse]:
    agent = make_tuner(_BOUNDS, seed)
    course = tune_in_market(
        agent,
        100 + seed,
        hours,
        _BOUNDS,
        share=_SHARE,
        reward_scale=reward_scale,
        settings=MarketSettings(sessions=sessions),
    )
    network = agent.export()
    return (
        lambda states: np.array([network.act(state) for state in states], dtype=np.float64),
        course,
    )


def _evaluate(policy: StatePolicy, seed: int) -> tuple[Floats, np.ndarray, Floats]:
    return play(policy, _EVALUATED + seed, 600, _BOUNDS, environments=4)


def _champion(states: Floats) -> Floats:
    return np.zeros((len(states), len(CHAMPION)))


def _oracle(states: Floats) -> Floats:
    """Actions of the weights that people have on average, by what the simulator is made of."""
    told = dict(zip(STATE, states.T, strict=True))
    new, fatigue = told["new_customers"], told["campaign_fatigue"]
    sensitivity = MarketSettings().promotion_price_sensitivity
    wanted = np.column_stack(
        [
            1.3 * (1 - 0.5 * new),
            0.3 + sensitivity * told["promotion"] * (0.5 + told["discount"]),
            0.35 * (1 - new),
            np.zeros(len(states)),
            (0.2 + 0.9 * new) * (1 - np.minimum(fatigue, 0.9)),
        ]
    )
    weights = wanted / wanted.sum(axis=1, keepdims=True)
    actions: Floats = (weights - np.array(CHAMPION)) / _BOUNDS.reach
    return actions


def _pendulum_return(seed: int, steps: int) -> float:
    env = gymnasium.make("Pendulum-v1")
    agent = DdpgAgent(3, 1, seed=seed)
    state, _ = env.reset(seed=seed)
    for _ in range(steps):
        proposal = agent.explore(state)
        following, reward, terminated, truncated, _ = env.step(2 * proposal.action)
        agent.observe(state, proposal.action, float(reward), following, terminated=terminated)
        state = following
        if truncated:
            state, _ = env.reset()
    network, totals = agent.export(), []
    for episode in range(100):
        state, _ = env.reset(seed=10_000 + episode)
        total = 0.0
        for _ in range(200):
            state, reward, *_ = env.step(2 * network.act(state))
            total += float(reward)
        totals.append(total)
    return float(np.mean(totals))
