"""Requests about one user: consent, features, timeline, devices, export, erasure."""

from __future__ import annotations

from collections.abc import Mapping

from tactful.client.exchange import segment
from tactful.client.request import Request
from tactful.schemas.subjects.people import PersonDevices, SeenRecommendations, Timeline
from tactful.schemas.users import (
    Consent,
    Erasure,
    PersonAccesses,
    PersonExport,
    PersonMatches,
    UserFeatures,
)


def find(by: str, value: str) -> Request[PersonMatches]:
    """Request the users in whose data a value occurs, such as ``properties.email``."""
    return Request("GET", "/v1/users", PersonMatches, params={"by": by, "value": value})


def consent(person: str) -> Request[Consent]:
    """Request the consent of a user, with its history."""
    return Request("GET", _of(person, "consent"), Consent)


def decide(person: str, purposes: Mapping[str, bool], *, source: str) -> Request[Consent]:
    """Request to record a decision about consent."""
    body = {"purposes": dict(purposes), "source": source}
    return Request("PUT", _of(person, "consent"), Consent, body=body)


def features(person: str) -> Request[UserFeatures]:
    """Request the present features of a user and what they mean."""
    return Request("GET", _of(person, "features"), UserFeatures)


def timeline(person: str, *, cursor: str | None = None, limit: int = 100) -> Request[Timeline]:
    """Request a page of the events of a user, newest first."""
    params = {"cursor": cursor, "limit": limit}
    return Request("GET", _of(person, "timeline"), Timeline, params=params)


def devices(person: str) -> Request[PersonDevices]:
    """Request the devices of a user."""
    return Request("GET", _of(person, "devices"), PersonDevices)


def recommendations(
    person: str, *, cursor: str | None = None, limit: int = 100
) -> Request[SeenRecommendations]:
    """Request a page of the recommendations that a user has seen, newest first."""
    params = {"cursor": cursor, "limit": limit}
    return Request("GET", _of(person, "recommendations"), SeenRecommendations, params=params)


def accesses(
    person: str, *, cursor: str | None = None, limit: int = 100
) -> Request[PersonAccesses]:
    """Request a page of the accesses to the data of a user, newest first."""
    params = {"cursor": cursor, "limit": limit}
    return Request("GET", _of(person, "accesses"), PersonAccesses, params=params)


def export(person: str) -> Request[PersonExport]:
    """Request everything that is stored about a user."""
    return Request("GET", _of(person, "export"), PersonExport)


def export_page(person: str) -> Request[bytes]:
    """Request the same as an HTML page for the user."""
    return Request("GET", _of(person, "export"), bytes, params={"format": "html"})


def erase(person: str) -> Request[Erasure]:
    """Request the erasure of a user; the answer is the receipt."""
    return Request("DELETE", _of(person, ""), Erasure)


def receipt(number: str) -> Request[Erasure]:
    """Request the receipt of an erasure."""
    return Request("GET", f"/v1/erasures/{segment(number)}", Erasure)


def _of(person: str, part: str) -> str:
    path = f"/v1/users/{segment(person)}"
    return f"{path}/{part}" if part else path
