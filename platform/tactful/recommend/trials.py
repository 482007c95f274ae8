"""Options and results of recommendations that are tried out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tactful.catalogue.request_context import FeatureSource
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import Recommendation
from tactful.schemas.trials import TrialRequest

NO_CHAMPION = "no model serves, so none can rank instead: `tactful models promote` chooses one"


@dataclass(frozen=True)
class TrialOptions:
    """Differences of a recommendation that is tried out."""

    person: FeatureSource | None = None  # has the features of a made-up user
    # version that ranks, loaded by `Recommender.load_to_compare`; empty for the served one
    model: str = ""
    channel_count: int = 0  # items of each recall channel by itself


class Attempt(NamedTuple):
    """A recommendation that was tried out."""

    answer: Recommendation
    impression: bytes | None  # as it would be logged, to be explained; None of an empty list
    channels: dict[str, list[str]]  # ids of the items that each recall channel proposes


def check_trial(trial: TrialRequest) -> None:
    """Refuse parts that contradict each other.

    Raises:
        ProblemError: naming the field.
    """
    request = trial.request
    if trial.person is not None and (request.subject is not None or request.brought):
        raise ProblemError(
            "invalid",
            "give a made-up person, or name a user, a device or items in the request",
            field="$.person",
        )
    if request.explain:
        raise ProblemError("invalid", "every trial is explained", field="$.request.explain")
    if request.force:
        raise ProblemError("invalid", "name the arms in `variants`", field="$.request.force")
