"""Training on devices: how good the model is, what privacy costs it, and what secrecy costs.

The questions are those of `benchmarks/federated/families.py`, the same for every model. The noisy
run is *scaled*, as published results are: its noise is that of a plan with 5,000 reports a round
from a million devices, added to the average of as many devices as the data has to give. Its
epsilon would hold of such a population, and does not hold of this one.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.federated import (
    families,
    fleet,
    foresight,
    inference,
    intent,
    pages,
    personal,
    scale,
    secure,
    stock,
)
from benchmarks.figures import Figure, Part, main, measure
from benchmarks.shared import retail_path
from tactful_federated.core.correlated_noise import CorrelatedNoise, NoiseMemory
from tactful_federated.core.plan import TrainingPlan, Wishes, plan_training
from tactful_federated.core.server_optimizer import ModelState, Optimizer, step
from tactful_federated.device.batched_trainer import SimulatedPopulation
from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.vectors import Vector

_ROOT = Path(__file__).resolve().parents[2]
_NORM = 2.0


@dataclass(frozen=True)
class Stage:
    """Some rounds in a row; step sizes fall and cohorts grow from stage to stage."""

    rounds: int
    reports: int
    learning_rate: float
    optimizer: Optimizer


_AVERAGED = Optimizer(averaging=0.95)


def _adam(rate: float) -> Optimizer:
    return Optimizer("fedadam", rate, adaptivity=1e-4)


# Chosen by looking at these very questions, as the central model's epochs were: close calls
# between the two say little, and those with the chain a little more.
_STAGES = (
    Stage(150, 60, 2.0, _AVERAGED),
    Stage(70, 120, 1.0, _AVERAGED),
    Stage(40, 200, 0.4, _AVERAGED),
    Stage(20, 200, 0.15, _AVERAGED),
    Stage(30, 120, 0.5, _adam(3e-3)),
    Stage(20, 120, 0.5, _adam(1e-3)),
    Stage(15, 200, 0.5, _adam(3e-4)),
)
_QUICK = (Stage(20, 60, 2.0, _AVERAGED), Stage(10, 60, 0.5, _adam(3e-3)))


def run(quick: bool, only: str | None = None, *, questions: int = intent.QUESTIONS) -> list[Figure]:
    """Measure; quick trains for few rounds with one seed, and intents are sent with `questions`."""
    return measure(_parts(quick, questions), only)


def _parts(quick: bool, questions: int = intent.QUESTIONS) -> list[Part]:
    named = ("noiseless", *_CHAINS, "central")
    rates = [f"{who}_{what}" for who in named for what in _WHAT]
    noisy = ["dp_top1", "dp_top5", "dp_independent_top5"]
    parts = [
        Part("quality", [(n, "1") for n in [*rates, *noisy]], lambda: _quality(quick)),
        Part("simulation", [("simulated_devices_per_s", "1/s")], lambda: _simulation(quick)),
        Part("scale", scale.FIGURES, lambda: scale.rounds_beside_flower(quick)),
        Part("sum", [("secure_sum_100x50k_s", "s")], lambda: secure.server_time(quick)),
        Part("kills", [("kill_wrong_sums", "sums")], lambda: secure.kills(quick)),
        Part("device", [("device_cpu_s_per_message", "s")], lambda: _device(quick)),
    ]
    parts += [
        Part("fleet", [(name, "s") for name in _FLEET], lambda: fleet.round_time(quick)),
        Part("stock", [("stock_node_round_s", "s")], lambda: stock.round_time(quick)),
        Part("kills-fleet", [("kill_wrong_sums_processes", "sums")], lambda: fleet.kills(quick)),
    ]
    parts.append(Part("inference", inference.FIGURES, lambda: inference.inference_time(quick)))
    parts += [
        Part("pages", pages.ROUND, lambda: pages.round_time(quick)),
        Part("pages-runtime", pages.RUNTIME, lambda: pages.runtime(quick)),
    ]
    parts.append(Part("personal", personal.FIGURES, lambda: _personal(quick)))
    parts.append(Part("foresight", foresight.FIGURES, lambda: _foresight(quick)))
    return [*parts, Part("intent", intent.FIGURES, lambda: _intent(quick, questions))]


_WHAT = ("top1", "top5")
_CHAINS = {
    "markov": "reads the last category and whether an invoice began since",
    "markov_of_tokens": "reads the last token, so no category where an invoice begins",
}
_FLEET = (
    "round_s_8_devices_tls",
    "server_cpu_s_per_round_8_devices_tls",
    "device_cpu_s_per_message_tls",
)


def _intent(quick: bool, questions: int) -> list[Figure]:
    stages = _QUICK if quick else _STAGES
    with _one_thread():
        return intent.gain(
            retail_path(), quick, lambda held: _federated(held, stages, 1, None), questions
        )


def _foresight(quick: bool) -> list[Figure]:
    stages = _QUICK if quick else _STAGES
    with _one_thread():
        return foresight.measure(
            retail_path(), quick, lambda held: _federated(held, stages, 1, None), _ROOT / "reports"
        )


def _device(quick: bool) -> list[Figure]:
    with _one_thread():  # as devices train; two that wait for each other cost what they wait
        return secure.device_time(quick)


def _personal(quick: bool) -> list[Figure]:
    with _one_thread():
        return personal.gains(families.load(retail_path()), quick)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _quality(quick: bool) -> list[Figure]:
    with _one_thread():
        return _compare(families.load(retail_path()), quick)


def _compare(data: families.Families, quick: bool) -> list[Figure]:
    asked = {"": data.asked(), "_first500": data.asked(500)}
    seeds = (1,) if quick else (1, 2, 3)
    stages = _QUICK if quick else _STAGES
    plan = _scaled_plan(data, stages)
    alone = replace(plan, bands=1, sigma_squared=_independent(plan))
    trained = {
        "noiseless": [_federated(data, stages, seed, None) for seed in seeds],
        "dp": [_federated(data, stages, seed, plan) for seed in seeds],
        "dp_independent": [_federated(data, stages, seed, alone) for seed in seeds],
        "central": [
            families.train_centrally(data, seed=seed, epochs=2 if quick else 10).vector()
            for seed in seeds
        ],
    }
    figures = []
    for end, questions in asked.items():
        chains = {
            "markov": families.category_chain(data, questions),
            "markov_of_tokens": families.token_chain(data, 500 if end else None),
        }
        steps = f"{chains['markov'].steps:,} steps"
        for who, chain in chains.items():
            note = f"{steps}; {_CHAINS[who]}"
            figures += [
                Figure(f"{who}_top1{end}", chain.top1, "1", note=note),
                Figure(f"{who}_top5{end}", chain.top5, "1", note=note),
            ]
        for who, models in trained.items():
            scores = [families.judge_weights(w, data.size, questions) for w in models]
            for what in _WHAT:
                values = [float(getattr(score, what)) for score in scores]
                figures.append(
                    Figure(
                        f"{who}_{what}{end}",
                        float(np.mean(values)),
                        "1",
                        min(values),
                        max(values),
                        len(seeds),
                        _note(who, stages, plan, steps),
                    )
                )
    return figures


def _note(who: str, stages: tuple[Stage, ...], plan: TrainingPlan, steps: str) -> str:
    if who == "central":
        return f"{steps}; Adam, the same model on pooled data; spread over seeds"
    rounds = sum(stage.rounds for stage in stages)
    cohorts = f"{stages[0].reports} to {stages[-1].reports}"
    text = f"{steps}; FedAvg, then FedAdam, {rounds} rounds of {cohorts} devices; spread over seeds"
    if who == "noiseless":
        return f"{text}; updates clipped at {_NORM:g}"
    return (
        f"{text}; noise SCALED to {plan.report_goal:,} reports of a million devices: epsilon"
        f" {plan.epsilon:g}, delta {plan.delta:g}, {plan.participations} participations,"
        f" {1 if who.endswith('independent') else plan.bands} bands"
    )


def _federated(
    data: families.Families, stages: tuple[Stage, ...], seed: int, plan: TrainingPlan | None
) -> Vector:
    training = data.training()
    ids = np.array(list(training))
    draw = np.random.default_rng(seed)
    state = ModelState.begin(families.new_model(data.size, seed=seed).vector())
    memory = NoiseMemory.empty(state.weights.size)
    noise = CorrelatedNoise(plan.root, plan.sigma_squared) if plan else None
    number, kind = 0, stages[0].optimizer.kind
    for stage in stages:
        settings = TrainerSettings(
            batch_size=4, learning_rate=stage.learning_rate, update_norm=_NORM, context=8
        )
        population = SimulatedPopulation(
            training,
            data.size,
            embedding=families.EMBEDDING,
            hidden=families.HIDDEN,
            settings=settings,
            seed=seed,
        )
        if stage.optimizer.kind != kind:
            # The moments of one optimizer mean nothing to another.
            state, kind = ModelState.begin(state.broadcast()), stage.optimizer.kind
        for _ in range(stage.rounds):
            number += 1
            chosen = draw.choice(ids, stage.reports, replace=False).tolist()
            total = np.zeros(state.weights.size)
            for _, update in population.train(chosen, state.broadcast(), number):
                total += update
            average = total / stage.reports
            if noise and plan:
                added, memory = noise.release(np.zeros(total.size, dtype=np.int64), memory)
                average = average + plan.grid.decode(added) / plan.report_goal
            state = step(state, average, stage.optimizer)
    return state.release()


def _scaled_plan(data: families.Families, stages: tuple[Stage, ...]) -> TrainingPlan:
    return plan_training(
        Wishes(
            epsilon=2.0,
            delta=1e-6,
            population=999_999,
            rounds=sum(stage.rounds for stage in stages),
            report_goal=5_000,
            update_norm=_NORM,
            parameters=families.new_model(data.size).size,
        )
    )


def _independent(plan: TrainingPlan) -> int:
    root = replace(plan, bands=1).root
    sensitivity = root.sensitivity_squared(plan.participations, plan.units)
    return int(sensitivity * plan.noise_multiplier**2) + 16


def _simulation(quick: bool) -> list[Figure]:
    """Training messages that one core simulates in a second, 10,000 devices to draw from."""
    data = families.load(retail_path())
    shapes = list(data.training().values())
    devices = {number: shapes[number % len(shapes)] for number in range(10_000)}
    population = SimulatedPopulation(devices, data.size, settings=TrainerSettings(context=8))
    weights = IntentModel(data.size).vector()
    draw = np.random.default_rng(1)
    speeds = []
    for number in range(3 if quick else 10):
        chosen = draw.choice(10_000, 100, replace=False).tolist()
        begun = time.process_time()
        reports = len(list(population.train(chosen, weights, number)))
        speeds.append(reports / (time.process_time() - begun))
    middle = float(np.median(speeds))
    note = "rounds of 100 of 10,000 devices, real histories repeated; per second of CPU"
    name = "simulated_devices_per_s"
    return [Figure(name, middle, "1/s", min(speeds), max(speeds), len(speeds), note)]


def _add_options(parser: argparse.ArgumentParser) -> None:
    told = f"questions that intents are sent with, default {intent.QUESTIONS:,}"
    parser.add_argument("--questions", type=int, default=intent.QUESTIONS, help=told)


if __name__ == "__main__":
    main(
        "federated",
        lambda options: run(options.quick, options.only, questions=options.questions),
        parts=[part.name for part in _parts(True)],
        add_options=_add_options,
    )
