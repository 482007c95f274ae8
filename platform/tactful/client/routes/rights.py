"""Requests about the rights of people: consent, look-up, features, export, erasure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tactful.client.exchange import segment
from tactful.client.request import Request
from tactful.schemas.users import (
    Consent,
    Erasure,
    ErasureRequest,
    ErasureResults,
    NewConsent,
    NewErasures,
    PersonAccesses,
    PersonExport,
    PersonMatches,
    UserFeatures,
)


def features(user_id: str, *, at: int | str | None = None) -> Request[UserFeatures]:
    """Request the features of one user, now or at `at` (epoch ms or RFC 3339)."""
    return Request("GET", f"{_path(user_id)}/features", UserFeatures, params={"at": at})


def consent(user_id: str) -> Request[Consent]:
    """Request the consent of one user."""
    return Request("GET", f"{_path(user_id)}/consent", Consent)


def record_consent(
    user_id: str, purposes: Mapping[str, bool], *, source: str = "", at: int | None = None
) -> Request[Consent]:
    """Record a decision of one user; purposes that are not named stay unchanged."""
    decision = NewConsent(purposes=dict(purposes), source=source, at=at)
    return Request("PUT", f"{_path(user_id)}/consent", Consent, body=decision)


def export(user_id: str) -> Request[PersonExport]:
    """Request everything that is stored about one user."""
    return Request("GET", f"{_path(user_id)}/export", PersonExport)


def export_page(user_id: str) -> Request[bytes]:
    """Request the export of one user as an HTML page for the user."""
    return Request("GET", f"{_path(user_id)}/export", bytes, params={"format": "html"})


def find(by: str, value: str) -> Request[PersonMatches]:
    """Request the users in whose data a value occurs.

    Args:
        by: kind of the value, such as ``properties.email`` or ``device_id``.
        value: the value, which is compared exactly.
    """
    return Request("GET", "/v1/users", PersonMatches, params={"by": by, "value": value})


def accesses(
    user_id: str, *, cursor: str | None = None, limit: int | None = None
) -> Request[PersonAccesses]:
    """Request one page of the accesses to the data of one user, newest first."""
    params = {"cursor": cursor, "limit": limit}
    return Request("GET", f"{_path(user_id)}/accesses", PersonAccesses, params=params)


def erase(user_id: str) -> Request[Erasure]:
    """Erase one user; the answer is the receipt."""
    return Request("DELETE", _path(user_id), Erasure)


def erase_many(requests: Sequence[ErasureRequest]) -> Request[ErasureResults]:
    """Erase several users, each by an id or by another value; receipts of repeats are the same."""
    body = NewErasures(requests=[*requests])
    return Request("POST", "/v1/erasures", ErasureResults, body=body, repeatable=True)


def erasure(receipt: str) -> Request[Erasure]:
    """Request the receipt of an erasure as it is now."""
    return Request("GET", f"/v1/erasures/{segment(receipt)}", Erasure)


def _path(user_id: str) -> str:
    return f"/v1/users/{segment(user_id)}"
