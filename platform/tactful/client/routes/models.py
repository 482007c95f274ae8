"""Requests about models: versions, the champion, and trainings."""

from __future__ import annotations

from typing import Any

from tactful.client.exchange import segment
from tactful.client.request import Request
from tactful.schemas.models import (
    LiveQuality,
    ModelVersionDetails,
    ModelVersions,
    Promoted,
    PromoteRequest,
    RollbackRequest,
    TrainingState,
    TrainRequest,
)
from tactful.schemas.reports import ModelChanges


def in_use() -> Request[dict[str, Any]]:
    """Request a description of the models that serve."""
    return Request("GET", "/v1/models", dict[str, Any])


def versions(*, cursor: str = "", limit: int = 100) -> Request[ModelVersions]:
    """Request a page of the versions with their figures, newest first."""
    return Request(
        "GET", "/v1/models/versions", ModelVersions, params={"cursor": cursor, "limit": limit}
    )


def version(number: str) -> Request[ModelVersionDetails]:
    """Request what the training of a version measured; it needs `admin`."""
    return Request("GET", f"/v1/models/versions/{segment(number)}", ModelVersionDetails)


def log(*, cursor: str = "", limit: int = 100) -> Request[ModelChanges]:
    """Request a page of trainings, promotions and rollbacks, newest first; it needs `admin`."""
    return Request("GET", "/v1/models/log", ModelChanges, params={"cursor": cursor, "limit": limit})


def promote(number: str, *, reason: str) -> Request[Promoted]:
    """Request that a version becomes the champion; it needs `admin`."""
    body = PromoteRequest(version=number, reason=reason)
    return Request("POST", "/v1/models/promote", Promoted, body=body)


def roll_back(*, reason: str) -> Request[Promoted]:
    """Request that the previous champion serves again; it needs `admin`."""
    return Request("POST", "/v1/models/rollback", Promoted, body=RollbackRequest(reason=reason))


def train(*, reason: str, promote: bool = False) -> Request[TrainingState]:
    """Request a training now; `promote` lets it serve if it is no worse. It needs `admin`."""
    body = TrainRequest(reason=reason, promote=promote)
    return Request("POST", "/v1/models/train", TrainingState, body=body)


def training() -> Request[TrainingState]:
    """Request the progress of the training that runs; it needs `admin`."""
    return Request("GET", "/v1/models/train", TrainingState)


def quality() -> Request[LiveQuality]:
    """Request the live quality by day; it needs `admin`."""
    return Request("GET", "/v1/models/quality", LiveQuality)
