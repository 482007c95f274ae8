"""Consent, export, erasure and features of one user."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tactful.schemas.fields import Moment, ShortText
from tactful.schemas.positions import Position
from tactful.schemas.subjects.domains import Crossed
from tactful_privacy.people.consent import Purpose

BY_PATTERN = r"^((user|device|session|event|recommendation)_id|(properties|context)\..{1,128})$"
"""Kinds of values by which users are found."""

_NAMES = {"anyOf": [{"enum": [*Purpose]}, {"pattern": r"^[^\s>]{1,32}>[^\s>]{1,32}$"}]}
_Purpose = Annotated[str, Meta(extra_json_schema=_NAMES)]


class NewConsent(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Consent decision in a request; purposes that are not named stay unchanged.

    Attributes:
        purposes: whether each is agreed to: service, personalisation, measurement,
            federated_training, marketing, or the crossing of profiles between two domains, such as
            ``shop>magazine``.
        source: origin of the decision: a dialogue, a form, a letter.
        at: time of the decision; now, if not given.
    """

    purposes: Annotated[dict[_Purpose, bool], Meta(min_length=1, max_length=64)]
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
        kept_arms: arms that sticky experiments keep.
        crossed_profiles: profiles that crossed from other domains.
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
    kept_arms: list[dict[str, Any]] = []
    crossed_profiles: list[dict[str, Any]] = []


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


class ErasureList(msgspec.Struct, kw_only=True, frozen=True):
    """A page of the erasures of an installation; they contain no id of a user.

    Attributes:
        erasures: the one that is due first comes first; of completed ones the latest.
        next_cursor: cursor of the next page; null on the last one.
    """

    erasures: list[Erasure]
    next_cursor: str | None = None


class PersonMatch(msgspec.Struct, kw_only=True, frozen=True):
    """A user in whose data a value occurs.

    Attributes:
        person: user id, or ``device:`` and a device id.
        records: number of log records with the value.
        last_at: time of the latest of them, epoch milliseconds.
    """

    person: str
    records: int
    last_at: int


class PersonMatches(msgspec.Struct, kw_only=True, frozen=True):
    """Users in whose data a value occurs.

    Attributes:
        people: the users, the latest first.
        more: whether there may be further users; the search keeps 100.
    """

    people: list[PersonMatch]
    more: bool = False


class ErasureRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Request to erase one user.

    Attributes:
        by: kind of the value: ``user_id`` (also ``device:`` and a device id), ``device_id``,
            ``session_id``, ``event_id``, ``recommendation_id``, ``properties.NAME`` or
            ``context.NAME``.
        value: a user id, or a value that was stored of the user.
        people: all users with the value, if there are several; without them such a request is
            refused.
    """

    value: Annotated[str, Meta(min_length=1, max_length=256)]
    by: Annotated[str, Meta(pattern=BY_PATTERN)] = "user_id"
    people: Annotated[list[Annotated[str, Meta(max_length=264)]], Meta(max_length=100)] = []


class NewErasures(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Requests to erase users, at most `limits.batch`.

    Attributes:
        requests: one for each user.
    """

    requests: Annotated[list[ErasureRequest], Meta(min_length=1)]


class ErasureResult(msgspec.Struct, kw_only=True, frozen=True):
    """Result of one request of many.

    Attributes:
        state: ``accepted`` or ``refused``.
        reason: of a refusal: ``unknown``: nobody has the value; ``ambiguous``: several have it,
            and `people` of the request does not name exactly them.
        people: the users.
        erasures: a receipt for each, if accepted.
    """

    state: str
    reason: str = ""
    people: list[str]
    erasures: list[Erasure] = []


class ErasureResults(msgspec.Struct, kw_only=True, frozen=True):
    """Results of requests to erase users.

    Attributes:
        results: one for each request, in their order.
    """

    results: list[ErasureResult]


EVERYBODY = "*"
"""Name in the trail for a look at the data of all users: `letters` or `stream`."""


class PersonAccess(msgspec.Struct, kw_only=True, frozen=True):
    """An access to a user's data.

    Attributes:
        id: grows with every access.
        action: `find`, `export`, `erase`, `decide` (consent), or what was read: `consent`,
            `features`, `timeline`, `devices`, `recommendations`, or a recommendation that was
            explained as `explain`, or tried out as `try`; the value of a flag as `flag`; a profile
            that left for another domain as `release`, or arrived as `receive`; of all users,
            `letters` or `stream`.
        at: time of the request, epoch milliseconds.
        by: a signed-in person, the API key by its public part, or login and host of a command.
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


class FeatureMeaning(msgspec.Struct, kw_only=True, frozen=True):
    """Computation of a feature, to describe its value.

    Attributes:
        name: of the feature.
        aggregate: `count`, `sum`, `mean`, `last_n`, `last_time` and others.
        events: event types that count.
        of: source of the value, such as `properties.price`; null for events themselves.
        group_by: source of the group, such as `category`; null for none.
        window_ms: how far back events count, milliseconds; null for all.
    """

    name: str
    aggregate: str
    events: list[str]
    of: str | None = None
    group_by: str | None = None
    window_ms: int | None = None


Stage = Literal["new", "active", "lapsing", "lost"]
"""Stages of the life cycle of a user."""


class LifeCycle(msgspec.Struct, frozen=True, kw_only=True):
    """Stage, probability of a return, and value of a user at one time.

    Attributes:
        stage: `new` (events on one day only), `active`, `lapsing` or `lost`; None if unknown.
        return_probability: probability of an event on a later day within `horizon_days`; None if
            unknown.
        horizon_days: days that the probability looks ahead.
        visits: days with an event.
        first_day: first of them, UTC, as ``2026-08-01``; None without any.
        last_day: last of them.
        value: value so far: sum of the prices of purchases in two years at most; where no user has
            such a purchase, number of visits.
        value_unit: `money` or `visits`.
        calibrated: whether the probability was calibrated on later visits of this shop.
        brier: mean squared error of such probabilities on these visits; None without calibration.
        base_brier: that of one probability for everybody, the share of users who returned.
        reason: why the stage is unknown; empty if it is known.
    """

    stage: Stage | None = None
    return_probability: float | None = None
    horizon_days: int
    visits: int = 0
    first_day: str | None = None
    last_day: str | None = None
    value: float = 0.0
    value_unit: Literal["money", "visits"] = "visits"
    calibrated: bool = False
    brier: float | None = None
    base_brier: float | None = None
    reason: str = ""


class UserFeatures(msgspec.Struct, kw_only=True, frozen=True):
    """Features of one user at one time.

    Attributes:
        user_id: requested key.
        at: the time, epoch milliseconds.
        position: log position up to which events had been applied.
        features: name to value: a number, a number per group, or the last values with their times.
        meanings: what each of them computes.
        lifecycle: stage, probability of a return, and value so far.
        crossed: profiles of other domains that recommendations may follow from.
    """

    user_id: str
    at: int
    position: Position
    features: dict[str, float | dict[str, float] | list[tuple[str, int]]]
    meanings: list[FeatureMeaning] = []
    lifecycle: LifeCycle | None = None
    crossed: list[Crossed] = []
