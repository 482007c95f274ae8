"""Settings of recommendations, coupons and training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from tactful.config.fields import PositiveFloat


@dataclass(frozen=True)
class RecommendSettings:
    """Settings of recommendations.

    Attributes:
        experiments: ``experiments.yaml``; empty: the packaged one.
        placement: ``placement.yaml``, the placement rules; empty: the packaged one.
        rollouts: ``rollouts.yaml``, changes that are rolled out in stages; empty for none.
        look_minutes: shortest time between two looks at the outcomes of a rollout.
        record_rollouts: whether the end of a rollout is recorded as a run in MLflow, and a shipped
            model becomes the champion.
    """

    experiments: Path = Path()
    placement: Path = Path()
    rollouts: Path = Path()
    look_minutes: PositiveFloat = 5.0
    record_rollouts: bool = True


@dataclass(frozen=True)
class CouponSettings:
    """Settings of coupons.

    Attributes:
        definitions: ``coupons.yaml``; empty: every action is sent to the shop unchanged.
    """

    definitions: Path = Path()


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of periodic training of the ranking model; off by default.

    Attributes:
        every_hours: train this long after the last training; 0 for never.
        drift_psi: train when the score or a feature of the champion has drifted by more than this
            population stability index; 0.25 is a large change, 0 for never.
        check_minutes: time between two checks whether training is due.
        promote: whether a version that is no worse than the champion serves at once.
        name: registered model name.
        label_days: days before the end that give the recommendations to learn from.
        lists: most replayed recommendations to learn from.
        vectors: training of item vectors, here and by `tactful train`: from ``co_occurrence``
            alone, or continued by ``two_tower``, which needs PyTorch.
    """

    every_hours: Annotated[float, Meta(ge=0)] = 0.0
    drift_psi: Annotated[float, Meta(ge=0)] = 0.0
    check_minutes: PositiveFloat = 15.0
    promote: bool = False
    name: Annotated[str, Meta(min_length=1)] = "ranker"
    label_days: Annotated[float, Meta(ge=0.1)] = 35.0
    lists: Annotated[int, Meta(ge=20)] = 8_000
    vectors: Literal["co_occurrence", "two_tower"] = "co_occurrence"
