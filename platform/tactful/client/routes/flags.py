"""Requests about flags: values for a unit, signed payloads, states, changes."""

from __future__ import annotations

from tactful.client.exchange import segment
from tactful.client.request import Request
from tactful.schemas.experiments.flags import (
    Assignment,
    AssignRequest,
    FlagDetails,
    FlagIndex,
    FlagsApplied,
    FlagsFile,
    FlagSigningKey,
    FlagStep,
    FlagWhy,
    SignedPayload,
    UnitToken,
    UnitTokenRequest,
)


def assign(request: AssignRequest) -> Request[Assignment]:
    """Request the values of flags for one unit; exposures are logged once."""
    return Request("POST", "/v1/assign", Assignment, body=request, repeatable=True)


def token(device_id: str, former: str | None = None) -> Request[UnitToken]:
    """Request the token of a device that evaluates flags itself."""
    body = UnitTokenRequest(device_id=device_id, token=former)
    return Request("POST", "/v1/flags/token", UnitToken, body=body)


def payload() -> Request[SignedPayload]:
    """Request the signed flags for local evaluation."""
    return Request("GET", "/v1/flags/payload", SignedPayload)


def signing_key() -> Request[FlagSigningKey]:
    """Request the public key of signed flags."""
    return Request("GET", "/v1/flags/signing-key", FlagSigningKey)


def flags(*, cursor: str | None = None, limit: int | None = None) -> Request[FlagIndex]:
    """Request one page of the flags, by key."""
    return Request("GET", "/v1/flags", FlagIndex, params={"cursor": cursor, "limit": limit})


def flag(key: str) -> Request[FlagDetails]:
    """Request a flag with its rules and its history."""
    return Request("GET", f"/v1/flags/{segment(key)}", FlagDetails)


def apply(
    definitions: str, *, name: str = "flags.yaml", reason: str = "", check: bool = False
) -> Request[FlagsApplied]:
    """Apply definitions of all flags, or only check them.

    Args:
        definitions: YAML text.
        name: name of the file, for messages.
        reason: reason for the change, for the audit trail.
        check: whether to report the differences without applying them.
    """
    body = FlagsFile(definitions=definitions, name=name, reason=reason, check=check)
    return Request("POST", "/v1/flags", FlagsApplied, body=body, repeatable=True)


def kill(key: str, reason: str) -> Request[FlagDetails]:
    """Give every unit the default value of a flag; the reason is for the audit trail."""
    body = FlagStep(reason=reason)
    path = f"/v1/flags/{segment(key)}/kill"
    return Request("POST", path, FlagDetails, body=body, repeatable=True)


def revive(key: str, reason: str) -> Request[FlagDetails]:
    """End the kill of a flag; the reason is for the audit trail."""
    body = FlagStep(reason=reason)
    path = f"/v1/flags/{segment(key)}/revive"
    return Request("POST", path, FlagDetails, body=body, repeatable=True)


def why(key: str, unit: str, *, attributes: str | None = None) -> Request[FlagWhy]:
    """Request the reasons for the value of a flag for one unit.

    Args:
        key: key of the flag.
        unit: user id, or ``device:`` and a device id.
        attributes: other attributes, as a JSON object.
    """
    params = {"unit": unit, "attributes": attributes}
    return Request("GET", f"/v1/flags/{segment(key)}/why", FlagWhy, params=params)
