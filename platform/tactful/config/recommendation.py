"""Settings of recommendations, coupons, bandits and training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from tactful.config.fields import PositiveFloat


@dataclass(frozen=True)
class RecommendSettings:
    """Settings of recommendations."""

    experiments: Path = Path()  # ``experiments.yaml``; empty: the packaged one
    placement: Path = Path()  # ``placement.yaml``, the placement rules; empty: the packaged one
    # ``rollouts.yaml``, changes that are rolled out in stages; empty for none
    rollouts: Path = Path()
    # shortest time between two looks at the outcomes of a rollout
    look_minutes: PositiveFloat = 5.0
    # whether the end of a rollout is recorded as a run in MLflow, and a shipped model becomes the
    # champion
    record_rollouts: bool = True
    # share of the users who get recommendations that are not personal, always the same, to measure
    # what personal ones are worth; 0 for nobody
    holdout: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.0
    # privacy loss of a user in a week by released numbers of that effect; 0 releases none
    holdout_epsilon: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0
    # least number of people who took an item within 84 days before its sales count in anonymous
    # recommendations and lists of items, and who took a pair of items before lists show it; 1 for
    # no minimum, and for pairs of two
    anonymous_minimum: Annotated[int, Meta(ge=1, le=1_000)] = 10
    # least share of the places for items that are new to the user; the one that the training of
    # the champion chose, if none is set
    discovery: Annotated[float, Meta(ge=0.0, le=1.0)] | Literal["trained"] = "trained"
    # ``metrics.yaml``, metrics and analyses of experiments; empty: the packaged metrics
    metrics: Path = Path()


@dataclass(frozen=True)
class CouponSettings:
    """Settings of coupons."""

    # ``coupons.yaml``; empty: every action is sent to the shop unchanged
    definitions: Path = Path()


@dataclass(frozen=True)
class BanditSettings:
    """Settings of bandits."""

    # ``bandits.yaml``, applied at the start; empty: none, and those that were applied go on
    definitions: Path = Path()


@dataclass(frozen=True)
class LifecycleSettings:
    """Settings of the life cycle of users."""

    # days within which a return is predicted
    horizon_days: Annotated[int, Meta(ge=1, le=365)] = 30
    # a user is lapsing, or lost, when a return is less likely than this share of the probability
    # just after the last visit
    lapsing_below: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.5
    lost_below: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.25
    # minutes from the begin of one pass over all users, which finds changes of stage, to the next,
    # if the pass is not longer; 0: none, and no fit
    every_minutes: Annotated[float, Meta(ge=0.0, le=1_440.0)] = 15.0
    # hours between two fits of the model
    fit_hours: PositiveFloat = 24.0


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of periodic training of the ranking model; off by default."""

    # train this long after the last training; 0 for never
    every_hours: Annotated[float, Meta(ge=0)] = 0.0
    # train when the score or a feature of the champion has drifted by more than this population
    # stability index; 0.25 is a large change, 0 for never
    drift_psi: Annotated[float, Meta(ge=0)] = 0.0
    check_minutes: PositiveFloat = 15.0  # time between two checks whether training is due
    promote: bool = False  # whether a version that is no worse than the champion serves at once
    name: Annotated[str, Meta(min_length=1)] = "ranker"  # registered model name
    # while there is no champion, learn recall from the log at this interval in seconds, or less
    # often where it takes long; 0 for never
    recall_seconds: Annotated[float, Meta(ge=0)] = 20.0
    # minutes between two measurements of the live quality, by day, in a process; 0 for never
    quality_minutes: Annotated[float, Meta(ge=0)] = 60.0
    # event type by which an item counts as taken, as by every stronger one (``view``, ``click``,
    # ``x.*``, ``rating``, ``add_to_cart``, ``purchase``); empty: the strongest with enough data
    label: str = ""
    # days before the end that give the recommendations to learn from
    label_days: Annotated[float, Meta(ge=0.1)] = 35.0
    lists: Annotated[int, Meta(ge=20)] = 8_000  # most replayed recommendations to learn from
    # training of item vectors, here and by `tactful train`: from ``co_occurrence`` alone, or
    # continued by ``two_tower``, which needs PyTorch
    vectors: Literal["co_occurrence", "two_tower"] = "co_occurrence"
