"""Settings of recommendations, coupons and training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from tactful.config.fields import PositiveFloat


@dataclass(frozen=True)
class RecommendSettings:
    """What lists are made by.

    Attributes:
        experiments: ``experiments.yaml``; empty means the one that comes with the package.
        placement: ``placement.yaml``: what has to stand where in a list, and what must not; empty
            means the one that comes with the package.
        rollouts: ``rollouts.yaml``: changes that are tried out in stages; empty means none.
        look_minutes: least time between two looks at what people do in a rollout.
        record_rollouts: whether the end of a rollout becomes a run in MLflow, and a model that was
            shipped the champion.
    """

    experiments: Path = Path()
    placement: Path = Path()
    rollouts: Path = Path()
    look_minutes: PositiveFloat = 5.0
    record_rollouts: bool = True


@dataclass(frozen=True)
class CouponSettings:
    """Who gets a coupon when a sequence has fired.

    Attributes:
        definitions: ``coupons.yaml``; empty means that every action goes to the shop as it is.
    """

    definitions: Path = Path()


@dataclass(frozen=True)
class TrainingSettings:
    """When the server has its ranking model trained again; by default never.

    Attributes:
        every_hours: so long after the last training; 0 for never.
        drift_psi: when the score or a feature of the champion's lists has moved by more than this
            population stability index; 0.25 is a large change, 0 looks at nothing.
        check_minutes: how often it is looked whether it is time.
        promote: whether a version that is no worse than the champion serves at once.
        name: registered model name.
        label_days: the last so many days before the end give the lists to learn from.
        lists: how many replayed lists to learn from at most.
        vectors: how item vectors are learned, here and by `tactful train`: from ``co_occurrence``
            alone, or from there on by ``two_tower``, which needs PyTorch.
    """

    every_hours: Annotated[float, Meta(ge=0)] = 0.0
    drift_psi: Annotated[float, Meta(ge=0)] = 0.0
    check_minutes: PositiveFloat = 15.0
    promote: bool = False
    name: Annotated[str, Meta(min_length=1)] = "ranker"
    label_days: Annotated[float, Meta(ge=0.1)] = 35.0
    lists: Annotated[int, Meta(ge=20)] = 8_000
    vectors: Literal["co_occurrence", "two_tower"] = "co_occurrence"
