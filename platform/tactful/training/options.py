"""Options of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Vectors = Literal["co_occurrence", "two_tower"]


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training.

    Attributes:
        name: registered model name.
        label_days: most days before the end that give the lists to learn from. The first half of
            the history gives none: recall learns from it.
        lists: most replayed lists to learn from.
        negatives: candidates that were not taken, kept per replayed list.
        validation: share of the lists, the latest ones, kept to stop early and to measure.
        task: target of a list: the whole `basket` before its first item, the `next` item within a
            visit, or `auto`: next where the items of a visit have an order.
        shown: most shown lists to learn from, the latest; 0 learns from the replay alone.
        label: event type by which an item counts as taken, as by every stronger one; empty: the
            strongest type with enough data.
        outcome_hours: time after a list in which outcomes count. A list whose time is not over when
            the log ends is left out.
        vectors: source of item vectors: `co_occurrence` alone, or continued by `two_tower`, which
            needs PyTorch.
        minimum_people: people from whom on a pair of items counts in lists for everybody.
        debias: whether items further down count more, by how seldom their place is looked at.
        rounds: most trees.
        patience: number of trees without improvement after which to stop.
        depth: of a tree.
        learning_rate: shrinkage.
        threads: used by XGBoost.
        seed: of everything drawn.
    """

    name: str = "ranker"
    label_days: float = 35.0
    lists: int = 8_000
    negatives: int = 40
    validation: float = 0.15
    task: Literal["auto", "basket", "next"] = "auto"
    shown: int = 20_000
    label: str = ""
    outcome_hours: float = 24.0
    minimum_people: int = 10
    debias: bool = True
    vectors: Vectors = "co_occurrence"
    rounds: int = 300
    patience: int = 25
    depth: int = 6
    learning_rate: float = 0.1
    threads: int = 2
    seed: int = 0
