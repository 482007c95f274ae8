"""Consent, export, erasure and features of one user."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tactful.schemas.fields import Moment, ShortText
from tactful.schemas.positions import Position
from tactful_privacy.people.consent import Purpose

_Purpose = Annotated[str, Meta(extra_json_schema={"enum": [*Purpose]})]


class NewConsent(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Consent decision in a request; purposes that are not named stay unchanged.

    Attributes:
        purposes: whether each is agreed to: service, personalisation, measurement,
            federated_training, marketing.
        source: origin of the decision: a dialogue, a form, a letter.
        at: time of the decision; now, if not given.
    """

    purposes: Annotated[dict[_Purpose, bool], Meta(min_length=1, max_length=16)]
    source: ShortText = ""
    at: Moment | None = None


class ConsentDecision(msgspec.Struct, kw_only=True, frozen=True):
    """Consent decision of a user.

    Attributes:
        version: number of the decision in the installation.
        purposes: whether each named purpose is agreed to.
        at: time of the decision, epoch milliseconds.
        source: origin of the decision.
    """

    version: int
    purposes: dict[str, bool]
    at: int
    source: str


class Consent(msgspec.Struct, kw_only=True, frozen=True):
    """Consent of a user.

    Attributes:
        person: user id, or ``device:`` and a device id.
        allowed: purposes that are allowed now.
        said: decided purposes, and whether each is agreed to; the default holds for the others.
        default: purposes allowed for users without a decision.
        history: all decisions, oldest first.
    """

    person: str
    allowed: list[str]
    said: dict[str, bool]
    default: list[str]
    history: list[ConsentDecision]


class PersonExport(msgspec.Struct, kw_only=True, frozen=True):
    """All data that are stored about a user.

    Attributes:
        person: user id, or ``device:`` and a device id.
        made_at: epoch milliseconds.
        consent: consent decisions, oldest first.
        description: latest description sent by the shop; None for none.
        devices: devices of this user alone.
        shared_devices: devices that others have used, too.
        sessions: visits.
        records: log records in the form they were sent, oldest first, each with its `offset`.
        features: computed features, by entity: the user, a device or a visit.
        dead_letters: events that did not count, with the reason.
        waiting_actions: actions that wait for a webhook.
        notes: data that are not included, and the reason.
    """

    person: str
    made_at: int
    consent: list[ConsentDecision]
    description: dict[str, Any] | None
    devices: list[str]
    shared_devices: list[str]
    sessions: list[str]
    records: list[dict[str, Any]]
    features: dict[str, dict[str, Any]]
    dead_letters: list[dict[str, Any]]
    waiting_actions: list[dict[str, Any]]
    notes: list[str]


class ErasureStep(msgspec.Struct, kw_only=True, frozen=True):
    """Erasure of a user from one store.

    Attributes:
        place: log, state, online store and others.
        removed: number of removed records, keys or files.
        note: further remark.
        sha256: hash of the remaining content, for the files of the log.
        at: time of the removal, epoch milliseconds.
    """

    place: str
    removed: int
    note: str = ""
    sha256: str = ""
    at: int | None = None


class Erasure(msgspec.Struct, kw_only=True, frozen=True):
    """Receipt of an erasure. It contains no id of the user.

    Attributes:
        receipt: its number.
        state: ``requested``: no data of the user is accepted or read any more, and nothing was
            removed yet; ``purging``; ``done``.
        requested_at: epoch milliseconds.
        due_at: latest time of completion, epoch milliseconds.
        done_at: time of completion, epoch milliseconds.
        steps: completed steps.
    """

    receipt: str
    state: str
    requested_at: int
    due_at: int
    done_at: int | None
    steps: list[ErasureStep]


class PersonAccess(msgspec.Struct, kw_only=True, frozen=True):
    """An export or erasure of a user's data.

    Attributes:
        id: grows with every access.
        action: `export` or `erase`.
        at: time of the request, epoch milliseconds.
        by: the API key by its public part, or login and host of a command.
    """

    id: int
    action: str
    at: int
    by: str


class PersonAccesses(msgspec.Struct, kw_only=True, frozen=True):
    """A page of the accesses to a user's data, newest first.

    Attributes:
        accesses: the accesses.
        next_cursor: cursor of the next page; null on the last one.
    """

    accesses: list[PersonAccess]
    next_cursor: str | None = None


class UserFeatures(msgspec.Struct, kw_only=True, frozen=True):
    """Features of one user at one time.

    Attributes:
        user_id: requested key.
        at: the time, epoch milliseconds.
        position: log position up to which events had been applied.
        features: name to value: a number, a number per group, or the last values with their times.
    """

    user_id: str
    at: int
    position: Position
    features: dict[str, float | dict[str, float] | list[tuple[str, int]]]
