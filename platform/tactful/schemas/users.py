"""Consent, export, erasure and features of one user."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tactful.schemas.fields import Moment, Said
from tactful.schemas.positions import Position


class NewConsent(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a person said of some purposes; those that are not named stay as they were.

    Attributes:
        purposes: whether each is agreed to: service, personalisation, measurement,
            federated_training, marketing.
        source: where it was said: a dialogue, a form, a letter.
        at: when it was said; now, if not given.
    """

    purposes: Annotated[dict[str, bool], Meta(min_length=1, max_length=16)]
    source: Said = ""
    at: Moment | None = None


class ConsentDecision(msgspec.Struct, kw_only=True, frozen=True):
    """What a person said at one time.

    Attributes:
        version: number of the decision in the installation.
        purposes: whether each that was spoken of is agreed to.
        at: when it was said, epoch milliseconds.
        source: where.
    """

    version: int
    purposes: dict[str, bool]
    at: int
    source: str


class Consent(msgspec.Struct, kw_only=True, frozen=True):
    """What a person has agreed to.

    Attributes:
        person: user id, or ``device:`` and a device id.
        allowed: purposes that they may be used for now.
        said: whether each that they spoke of is agreed to; the default holds for the others.
        default: purposes that who said nothing may be used for.
        history: all decisions, oldest first.
    """

    person: str
    allowed: list[str]
    said: dict[str, bool]
    default: list[str]
    history: list[ConsentDecision]


class PersonExport(msgspec.Struct, kw_only=True, frozen=True):
    """All there is of a person.

    Attributes:
        person: user id, or ``device:`` and a device id.
        made_at: epoch milliseconds.
        consent: every decision of theirs, oldest first.
        description: what the shop said of them last; None where it said nothing.
        devices: devices that are theirs alone.
        shared_devices: devices that others have used, too.
        sessions: their visits.
        records: what the log holds of them, oldest first, as it was sent, each with its `offset`.
        features: what is computed of them, by whose history it is: theirs, a device's, a visit's.
        dead_letters: events of theirs that did not count, with the reason.
        waiting_actions: actions for them on their way to a webhook.
        notes: what is not here, and why.
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
    """What was done in one place to erase a person.

    Attributes:
        place: log, state, online store and others.
        removed: how many records, keys or files of the person were removed there.
        note: what else is to be known of it.
        sha256: hash of what the place holds since, for the files of the log.
        at: when that was done, epoch milliseconds.
    """

    place: str
    removed: int
    note: str = ""
    sha256: str = ""
    at: int | None = None


class Erasure(msgspec.Struct, kw_only=True, frozen=True):
    """The receipt of an erasure. It names nobody.

    Attributes:
        receipt: number of it.
        state: ``requested``: nothing is taken and read of the person any more, and nothing was
            removed yet; ``purging``; ``done``.
        requested_at: epoch milliseconds.
        due_at: when it is to be complete at the latest, epoch milliseconds.
        done_at: when it was complete, epoch milliseconds.
        steps: what was done so far.
    """

    receipt: str
    state: str
    requested_at: int
    due_at: int
    done_at: int | None
    steps: list[ErasureStep]


class UserFeatures(msgspec.Struct, kw_only=True, frozen=True):
    """The features of one user as of a time.

    Attributes:
        user_id: the key asked for.
        at: as of when, epoch milliseconds.
        position: where in the log the events end that had been applied.
        features: name to value: a number, a number per group, or the last values with their times.
    """

    user_id: str
    at: int
    position: Position
    features: dict[str, float | dict[str, float] | list[tuple[str, int]]]
