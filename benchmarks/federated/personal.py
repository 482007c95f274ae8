"""What a device gains by a model of its own, and what noise in the weights costs.

Visits are read as devices read them (`tokens.py`): as sets of families, most lines first. A
customer's visits before the cut are what the device holds, those after it are asked about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.federated import families
from benchmarks.figures import Figure
from tactful_federated.device.personalise import personalise
from tactful_federated.model.lstm_numpy import IntentPredictor, mean_curvature
from tactful_federated.model.tokens import BOUNDARY, FIRST_CATEGORY, Vocabulary, Windows, windows

FIGURES = [
    *(
        (f"personal_{part}_{what}_gain", "1")
        for part in ("head", "all")
        for what in ("top1", "top5")
    ),
    ("loss_curvature", "nats"),
]
"""Names and units."""

_FEWEST_VISITS = 5
_WIDTHS = (0.01, 0.04, 0.1)


@dataclass(frozen=True)
class _Customer:
    visits: list[list[str]]
    asked: Windows


def gains(data: families.Families, quick: bool) -> list[Figure]:
    """Measure; quick takes fewer customers and one seed."""
    vocabulary = Vocabulary(tuple(f"{token:04}" for token in range(FIRST_CATEGORY, data.size)))
    before = {number: _visits(tokens, vocabulary) for number, tokens in data.before.items()}
    after = {number: _visits(tokens, vocabulary) for number, tokens in data.after.items()}
    as_sets = families.Families(
        {number: vocabulary.sequence(visits) for number, visits in before.items()},
        {number: vocabulary.sequence(visits) for number, visits in after.items()},
        data.size,
    )
    customers = _customers(before, as_sets)[: 100 if quick else None]
    found: dict[str, list[tuple[float, float, float]]] = {}
    curvatures = []
    for seed in (1,) if quick else (1, 2, 3):
        model = families.train_centrally(as_sets, seed=seed, epochs=2 if quick else 10)
        shared = IntentPredictor(
            model.vector(), data.size, embedding=families.EMBEDDING, hidden=families.HIDDEN
        )
        for part in ("head", "all"):
            hits = np.array([_hits(shared, customer, part, vocabulary) for customer in customers])
            for column, what in ((3, "top1"), (4, "top5")):
                name = f"personal_{part}_{what}_gain"
                found.setdefault(name, []).append(
                    _gain(hits[:, 0], hits[:, column] - hits[:, column - 2])
                )
        asked = as_sets.asked(200)
        curvatures += [mean_curvature(shared, asked, noise=width, draws=3) for width in _WIDTHS]
    note = f"{len(customers):,} customers, who had visits before; interval over customers"
    figures = []
    for name, values in found.items():
        value, low, high = sorted(values)[len(values) // 2]
        figures.append(Figure(name, value, "1", low, high, len(values), note))
    spread = f"{len(_WIDTHS)} widths of noise from {_WIDTHS[0]:g} to {_WIDTHS[-1]:g}, each seed"
    middle = float(np.median(curvatures))
    low, high, runs = min(curvatures), max(curvatures), len(curvatures)
    return [*figures, Figure("loss_curvature", middle, "nats", low, high, runs, spread)]


def _customers(before: dict[int, list[list[str]]], as_sets: families.Families) -> list[_Customer]:
    found = []
    for number, tokens in as_sets.after.items():
        visits = before.get(number, [])
        if len(visits) < _FEWEST_VISITS:
            continue
        past = as_sets.before[number]
        asked = windows(np.concatenate([past, tokens]), start=len(past) + 1)
        if asked.steps:
            found.append(_Customer(visits, asked))
    return found


def _hits(
    shared: IntentPredictor, customer: _Customer, part: str, vocabulary: Vocabulary
) -> tuple[int, int, int, int, int]:
    """Questions, and those that the shared model, then the own one, ranks first and among five."""
    own = personalise(shared, customer.visits, vocabulary, part=part)  # type: ignore[arg-type]
    counted: list[int] = []
    for model in (shared, own.predictor):
        logits, answers = model.questions(customer.asked)
        right = np.argsort(-logits, axis=1, kind="stable")[:, :5] == answers[:, None]
        counted += [int(right[:, 0].sum()), int(right.sum())]
    one, two, three, four = counted
    return customer.asked.steps, one, two, three, four


def _gain(questions: NDArray[np.int64], gained: NDArray[np.int64]) -> tuple[float, float, float]:
    """Over all questions, with its 95 % interval over customers."""
    drawn = np.random.default_rng(1).integers(0, len(questions), (2_000, len(questions)))
    rates = gained[drawn].sum(axis=1) / questions[drawn].sum(axis=1)
    low, high = np.quantile(rates, (0.025, 0.975))
    return float(gained.sum() / questions.sum()), float(low), float(high)


def _visits(tokens: NDArray[np.int64], vocabulary: Vocabulary) -> list[list[str]]:
    found: list[list[str]] = []
    for token in tokens.tolist():
        if token == BOUNDARY:
            found.append([])
        elif token >= FIRST_CATEGORY:
            found[-1].append(vocabulary.category(token))
    return [visit for visit in found if visit]
