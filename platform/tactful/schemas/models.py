"""Models in the API: versions, their training, changes of the champion, and trainings that run."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tactful.schemas.reports import ModelChangeInfo

Version = Annotated[str, Meta(pattern=r"^[0-9]{1,18}$")]
Reason = Annotated[str, Meta(min_length=1, max_length=500)]
Alias = Literal["champion", "previous", "challenger"]


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """95 % interval over users.

    Attributes:
        low: lower end.
        high: upper end.
    """

    low: float
    high: float


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Loss of a figure without some columns; negative where it is better without them.

    Attributes:
        value: figure with all columns minus that without.
        low: lower end of the 95 % interval over users.
        high: upper end.
    """

    value: float
    low: float
    high: float


class ServedDrift(msgspec.Struct, frozen=True, kw_only=True):
    """Drift and skew of the version that served while another one was trained.

    Attributes:
        version: version that served; empty for none.
        drift: population stability index by column, of its latest 500 recommendations against its
            first 500, largest first; empty with fewer.
        skew: share of served values of the latest 500 recommendations that differ from those
            computed again; None if none was compared.
        skew_by_feature: share by column, where there are differences.
    """

    version: str = ""
    drift: dict[str, float] = {}
    skew: float | None = None
    skew_by_feature: dict[str, float] = {}


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the ranking model, without numbers of users.

    Attributes:
        version: its number.
        aliases: ``champion`` serves, ``previous`` served before it, ``challenger`` is the newest
            that has not served.
        trained_at: time of its registration, epoch milliseconds.
        trained_until: time of the latest event of its training, epoch milliseconds.
        label: weakest event type by which an item counted as taken; empty in earlier versions.
        metrics: figures on held-back questions, which also chose the number of trees.
        intervals: of these figures, where they were estimated.
        trees: number of trees; 0 if unknown.
        run_id: run of MLflow.
        run_url: address of the run, where MLflow is a server; else empty.
    """

    version: str
    aliases: list[Alias]
    trained_at: int
    trained_until: int
    label: str
    metrics: dict[str, float]
    intervals: dict[str, Bounds]
    trees: int
    run_id: str
    run_url: str


class ModelVersions(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the versions in the models directory, newest first.

    Attributes:
        versions: the versions.
        next_cursor: send it as ``cursor`` for the next page; None at the end.
    """

    versions: list[ModelVersion]
    next_cursor: str | None = None


class CalibrationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted probabilities against shares that were taken.

    Attributes:
        method: ``isotonic`` or ``platt``.
        of: ``shown`` items or ``candidates``.
        error: mean distance of prediction and share.
        brier: mean squared error of the probabilities.
        brier_constant: the same for one constant probability.
        predicted: mean probability of ten parts of equal size, ascending.
        observed: share that was taken of each part.
    """

    method: str
    of: str
    error: float
    brier: float
    brier_constant: float
    predicted: list[float]
    observed: list[float]


class ModelVersionDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Training of one version.

    Attributes:
        version: what the list says of it.
        rows: rows of its training.
        questions: replayed questions behind the rows.
        shown: shown recommendations behind the rows.
        seconds: duration of the training; 0 if unknown.
        curve: NDCG@20 on the held-back questions after each tree.
        calibration: None if too few items were taken.
        gains: total gain by column, largest first.
        losses: loss of HR@20 and NDCG@20 without the columns ``real_time``, ``offline``,
            ``content`` and ``intent``, each set to its median or missing.
        served: drift and skew while it served, measured by the latest training in this time.
        attention: chance that each position is looked at, relative to the first.
    """

    version: ModelVersion
    rows: int
    questions: int
    shown: int
    seconds: float
    curve: list[float]
    calibration: CalibrationInfo | None
    gains: dict[str, float]
    losses: dict[str, dict[str, Loss]]
    served: ServedDrift | None
    attention: list[float]


class PromoteRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Make a version the champion.

    Attributes:
        version: its number.
        reason: for the audit log.
    """

    version: Version
    reason: Reason


class RollbackRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Make the previous champion the champion again.

    Attributes:
        reason: for the audit log.
    """

    reason: Reason


class Promoted(msgspec.Struct, kw_only=True, frozen=True):
    """The champion after a change; servers load it within seconds.

    Attributes:
        version: version that serves.
        previous: version that served before; empty for none.
    """

    version: str
    previous: str


class TrainRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Train now.

    Attributes:
        reason: for the audit log.
        promote: whether the version serves at once if it is no worse than the champion.
    """

    reason: Reason
    promote: bool = False


class TrainingState(msgspec.Struct, kw_only=True, frozen=True):
    """Training that runs, whoever started it, and how the latest one ended.

    Attributes:
        running: whether one runs.
        stage: what it does: ``read``, ``index``, ``replay``, ``fit``, ``compare`` or ``register``;
            empty while it starts.
        progress: share of the stage that is done; None if unknown.
        latest: latest entry of the audit log about a training.
        error: why the latest training that this server was asked for has failed; else empty.
    """

    running: bool
    stage: str = ""
    progress: float | None = None
    latest: ModelChangeInfo | None = None
    error: str = ""


class QualityFigure(msgspec.Struct, kw_only=True, frozen=True):
    """A figure and its 95 % interval over users.

    Attributes:
        value: the figure.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


class QualityDay(msgspec.Struct, kw_only=True, frozen=True):
    """Quality of the recommendations of one day, in UTC.

    Attributes:
        day: such as ``2026-03-01``.
        recommendations: number of recommendations whose outcome time is over.
        users: number of users and devices who got them.
        followed: number of recommendations whose user took something in the outcome time.
        hr20: share of these with a taken item among the first 20; None without any.
        ndcg20: normalised discounted cumulative gain of these; None without any.
        items: number of different items that were shown.
        diversity: how little two recommendations have in common, from 0 to 1; None for fewer than
            two.
        novelty: mean information of a shown item, in bits: high for items that are seldom taken.
        popularity_bias: mean popularity of shown items relative to that of taken ones, minus 1;
            None where nothing was taken.
    """

    day: str
    recommendations: int
    users: int
    followed: int
    hr20: QualityFigure | None
    ndcg20: QualityFigure | None
    items: int
    diversity: float | None
    novelty: float | None
    popularity_bias: float | None


class LiveQuality(msgspec.Struct, kw_only=True, frozen=True):
    """Quality of logged recommendations by day, oldest first; at most 60 days.

    Attributes:
        measured_at: time of the measurement, epoch milliseconds; 0 before the first.
        outcome_hours: hours after a recommendation in which takes count.
        label: weakest event type by which an item counts as taken.
        catalogue: number of items of the server now, for the coverage of a day.
        days: the days.
    """

    measured_at: int = 0
    outcome_hours: float = 24.0
    label: str = ""
    catalogue: int = 0
    days: list[QualityDay] = []
