"""What goes over the wire beside events: requests and answers of the HTTP API.

The client and the server share these structs; they need nothing but msgspec. Times are epoch
milliseconds, except where a request may also give RFC 3339.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tactful.schemas.positions import Position

Identifier = Annotated[str, Meta(min_length=1, max_length=256)]
Scalar = str | int | float | bool | None
MAX_COUNT = 1_000
MAX_BATCH = 100
LAST_MOMENT = 32_503_680_000_000

Moment = Annotated[int, Meta(ge=0, le=LAST_MOMENT)] | Annotated[dt.datetime, Meta(tz=True)]
"""Epoch milliseconds from 1970 up to the year 3000, or RFC 3339 with an offset."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class NewEvent(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """An event as it is sent; at least one of `user_id` and `device_id` is needed.

    Attributes:
        type: view, click, search, add_to_cart, remove_from_cart, purchase, payment, refund,
            return, leave, impression, rating, or ``x.`` and a name of your own.
        timestamp: when it happened.
        event_id: identity of the event; sent again with the same id, it counts once. Without one
            the server makes one, and a repeated request counts twice.
        user_id: who did it, where known.
        device_id: first-party id of the device it happened on.
        session_id: the visit it belongs to.
        item_id: the item it is about.
        recommendation_id: the recommendation it follows from.
        properties: price, currency, quantity, category, dwell_ms and others.
        context: where it happened: page, locale, app and others.
    """

    type: str
    timestamp: Moment
    event_id: Identifier | None = None
    user_id: Identifier | None = None
    device_id: Identifier | None = None
    session_id: Identifier | None = None
    item_id: Identifier | None = None
    recommendation_id: Identifier | None = None
    properties: dict[str, Scalar | list[Scalar]] = {}
    context: dict[str, Scalar] = {}


class NewItem(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """An item as it is sent: the whole description, which replaces an earlier one.

    Attributes:
        item_id: identity of the item.
        timestamp: when the description was updated; when it arrives, if not given.
        title: its name for people.
        category: what it is a kind of.
        price: in the currency of the shop, not negative.
        available: whether it can be bought now.
        properties: anything else.
    """

    item_id: Identifier
    timestamp: Moment | None = None
    title: str | None = None
    category: Identifier | None = None
    price: Annotated[float, Meta(ge=0)] | None = None
    available: bool = True
    properties: dict[str, Scalar | list[Scalar]] = {}


class NewUser(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A user as it is sent: the whole description, which replaces an earlier one.

    Attributes:
        user_id: identity of the user.
        timestamp: when the description was updated; when it arrives, if not given.
        properties: what the shop knows: demographics, membership and others.
    """

    user_id: Identifier
    timestamp: Moment | None = None
    properties: dict[str, Scalar | list[Scalar]] = {}


Said = Annotated[str, Meta(max_length=255)]


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


class Problem(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """An error, as RFC 9457 problem details.

    Attributes:
        title: the kind of problem in words; the same for every occurrence.
        status: HTTP status.
        code: short stable name of the kind, for programs.
        type: URI of the kind.
        detail: what was wrong this time and what to do.
        request_id: to find the request in the server's log.
        field: path of the offending part of the body or query, e.g. ``$.count``.
    """

    title: str
    status: int
    code: str = ""
    type: str = "about:blank"
    detail: str | None = None
    request_id: str | None = None
    field: str | None = None


class Rejection(msgspec.Struct, kw_only=True, frozen=True):
    """Why one element of a batch was not accepted.

    Attributes:
        index: position in the batch as sent, from 0.
        code: short stable name of the reason.
        message: what was wrong and what to do.
    """

    index: int
    code: str
    message: str


class EventsAccepted(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to events: they are durable.

    Attributes:
        accepted: events that are new and now in the log.
        duplicates: events whose ``event_id`` was accepted before; they change nothing.
        rejected: events that were refused, each with its index.
        position: where in the log these events end; give it back as ``after`` to read your own
            writes.
    """

    accepted: int
    duplicates: int
    rejected: list[Rejection]
    position: Position


class Upserted(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to item and user upserts: they are durable.

    Attributes:
        accepted: upserts now in the log.
        rejected: upserts that were refused, each with its index.
        position: where in the log these upserts end.
    """

    accepted: int
    rejected: list[Rejection]
    position: Position


class RecommendRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A request for recommendations.

    Without `user_id` and `device_id` the answer is the same for everybody.

    Attributes:
        user_id: whom it is for.
        device_id: first-party device id, where the person is not known.
        session_id: the visit it belongs to.
        count: how many items to return, 1 to 1,000.
        context: where it will be shown: page, locale, app…
        exclude: item ids not to return.
        category: return only items of this category.
        min_price: return only items that cost as much at least; a price must be known.
        max_price: return only items that cost as much at most; a price must be known.
        exclude_seen: leave out the items of this visit, the person's latest 50 and all they took.
        exclude_taken: leave out what the person ever put into a cart or bought.
        intent: weight by category, at most 32: what a device believes its person is looking for.
            It adds candidates, and restricts nothing.
        timestamp: answer as of this time (admin keys and ``--dev`` only, for replays).
        after: answer only when the engine has applied the log up to this position.
        force: experiment key to arm to use (admin keys and ``--dev`` only, for tests).
        explain: return how the list came about, too (admin keys and ``--dev`` only: it holds what
            is known of the person).
    """

    user_id: Identifier | None = None
    device_id: Identifier | None = None
    session_id: Identifier | None = None
    count: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 20
    context: Annotated[dict[Identifier, Scalar], Meta(max_length=64)] = {}
    exclude: Annotated[tuple[Identifier, ...], Meta(max_length=1000)] = ()
    category: Identifier | None = None
    min_price: Annotated[float, Meta(ge=0)] | None = None
    max_price: Annotated[float, Meta(ge=0)] | None = None
    exclude_seen: bool = False
    exclude_taken: bool = False
    intent: Annotated[
        dict[Identifier, Annotated[float, Meta(ge=0, le=1)]], Meta(max_length=32)
    ] = {}
    timestamp: Moment | None = None
    after: Annotated[int, Meta(ge=0)] | Annotated[str, Meta(max_length=32_768)] | None = None
    force: Annotated[dict[Identifier, Identifier], Meta(max_length=64)] = {}
    explain: bool = False

    @property
    def subject(self) -> str | None:
        """Key of the `user` entity in the feature engine; None when nobody is named."""
        if self.user_id is not None:
            return self.user_id
        return None if self.device_id is None else f"device:{self.device_id}"


class RecommendedItem(msgspec.Struct, kw_only=True, frozen=True):
    """One recommended item.

    Attributes:
        item_id: the item.
        score: what the item is worth in this list, comparable within one answer only. The list is
            in this order, best first, but for what diversity, placement rules and exploration move.
        channel: which recall channel found it.
    """

    item_id: str
    score: float
    channel: str


class ExplainedItem(msgspec.Struct, kw_only=True, frozen=True):
    """How one item came to its place.

    Attributes:
        item_id: the item.
        channel: which recall channel found it.
        score: what the list was ordered by.
        margin: what the model alone said; the sum of `base` and the contributions.
        features: the values it was ranked by, by name; None for a value that does not exist.
        contributions: what each feature added to the margin, by name.
    """

    item_id: str
    channel: str | None = None
    score: float | None = None
    margin: float | None = None
    features: dict[str, float | None] | None = None
    contributions: dict[str, float | None] | None = None


class Explanation(msgspec.Struct, kw_only=True, frozen=True):
    """How a list came about. It holds what is known of a person.

    Attributes:
        recommendation_id: of the list.
        at: the moment it was given, epoch milliseconds.
        ranking: ``learned`` by a model or ``heuristic``.
        model_version: which model ranked it.
        experiment: the experiment that chose how it was ranked.
        arm: the person's arm in it; None for none.
        forced: whether the caller chose the arm.
        propensity: probability with which the experiment gives this arm.
        base: margin of the model before any feature; the same for every item.
        items: in the order they were shown.
        rules: what else took part, as it was logged: filters, weights, caps and others.
        note: what is missing here and why.
    """

    recommendation_id: str
    at: int
    ranking: str
    model_version: str
    experiment: str | None = None
    arm: str | None = None
    forced: bool = False
    propensity: float | None = None
    base: float | None = None
    items: list[ExplainedItem] = []
    rules: dict[str, Any] = {}
    note: str | None = None


class Recommendation(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to a request for recommendations.

    Attributes:
        recommendation_id: send it back on events that follow from this list.
        items: best first.
        model_version: which model ranked it.
        variant: experiment key to arm.
        position: where in the log the events end that had been applied.
        fallback: why the list is short or not personal, in words; None when it is neither.
        took_ms: time in the server, waiting included.
        explanation: how it came about, when asked for.
    """

    recommendation_id: str
    items: list[RecommendedItem]
    model_version: str
    variant: dict[str, str] = {}
    position: Position = 0
    fallback: str | None = None
    took_ms: float = 0.0
    explanation: Explanation | None = None


class RecommendBatchRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Several requests at once.

    Attributes:
        requests: 1 to 100 requests.
    """

    requests: Annotated[list[RecommendRequest], Meta(min_length=1, max_length=MAX_BATCH)]


class BatchResult(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Answer to one request of a batch: one of the two is present.

    Attributes:
        recommendation: the answer.
        problem: why there is none.
    """

    recommendation: Recommendation | None = None
    problem: Problem | None = None


class RecommendBatch(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to a batch, in the order of the requests."""

    results: list[BatchResult]


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


class StatisticInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A published statistic and its guarantee.

    Attributes:
        name: to ask for it.
        epsilon: privacy loss of one user per unit.
        cap: how many events of one user count at most per unit.
        unit: what is protected, e.g. ``user-day``.
        title: what it counts, in words.
        pane_ms: length of a pane, milliseconds.
        kind: ``panes``; ``running_totals`` or ``gaussian_totals`` since midnight (UTC); or
            ``found_keys``, of a day, shown from a number of people on.
        method: the mechanism.
    """

    name: str
    epsilon: float
    cap: int
    unit: str
    title: str = ""
    pane_ms: int = 0
    kind: str = "panes"
    method: str = ""


class StatisticsIndex(msgspec.Struct, kw_only=True, frozen=True):
    """The published statistics."""

    statistics: list[StatisticInfo]
    next_cursor: str | None = None


class StatisticCell(msgspec.Struct, kw_only=True, frozen=True):
    """One released number.

    Attributes:
        pane_start: start of the pane, epoch milliseconds.
        key: what was counted, e.g. a category.
        value: the released (noisy) count.
        low: lower end of its confidence interval.
        high: upper end.
        counted_from: since when it counts, epoch milliseconds: the start of the pane, or midnight
            (UTC) before a running total.
    """

    pane_start: int
    key: str
    value: float
    low: float
    high: float
    counted_from: int | None = None


class StatisticsPage(msgspec.Struct, kw_only=True, frozen=True):
    """One page of a published statistic, oldest pane first.

    Attributes:
        name: the statistic.
        epsilon: privacy loss of one user per unit.
        cap: how many events of one user count at most per unit.
        unit: what is protected, e.g. ``user-day``.
        cells: released numbers.
        next_cursor: give it as ``cursor`` for the next page; None at the end.
        delta: bound on the probability that epsilon does not hold, computed.
        pane_ms: length of a pane, milliseconds.
        kind: ``panes``; ``running_totals`` or ``gaussian_totals`` since midnight (UTC); or
            ``found_keys``, of a day, shown from a number of people on.
        method: the mechanism.
        confidence: of the intervals.
    """

    name: str
    epsilon: float
    cap: int
    unit: str
    cells: list[StatisticCell]
    next_cursor: str | None = None
    delta: float = 0.0
    pane_ms: int = 0
    kind: str = "panes"
    method: str = ""
    confidence: float = 0.95


class ConcludedNumber(msgspec.Struct, kw_only=True, frozen=True):
    """One number concluded from released ones.

    Attributes:
        key: what it is about; keys that were taken together have commas between.
        value: the estimate; None of a quantile, whose bucket is the key.
        low: lower end of its interval.
        high: upper end.
        low_key: lowest bucket of a quantile's interval.
        high_key: highest one.
        best: best place of a key among the largest, 1 for the largest.
        worst: worst place.
        start: start of a period, epoch milliseconds.
        end: its end.
    """

    key: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    low_key: str | None = None
    high_key: str | None = None
    best: int | None = None
    worst: int | None = None
    start: int | None = None
    end: int | None = None


class Conclusion(msgspec.Struct, kw_only=True, frozen=True):
    """What released numbers of a span amount to.

    Attributes:
        name: the statistic.
        conclusion: what was concluded.
        since: since when it counts, epoch milliseconds.
        until: end of the last pane.
        panes: how many panes went in.
        epsilon: privacy loss of one user per unit; concluding cost nothing more.
        delta: bound on the probability that epsilon does not hold, computed.
        cap: how many events of one user count at most per unit.
        unit: what is protected.
        method: the mechanism.
        confidence: of the intervals; of places, of all together.
        results: what was concluded.
    """

    name: str
    conclusion: str
    since: int
    until: int
    panes: int
    epsilon: float
    delta: float
    cap: int
    unit: str
    method: str
    confidence: float
    results: list[ConcludedNumber]


class ReportInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A report that can be read.

    Attributes:
        name: to ask for it.
        updated_at: when it was last written, epoch milliseconds.
        bytes: its size.
    """

    name: str
    updated_at: int
    bytes: int


class ReportIndex(msgspec.Struct, kw_only=True, frozen=True):
    """The reports that can be read, by name."""

    reports: list[ReportInfo]
    next_cursor: str | None = None


class ModelChangeInfo(msgspec.Struct, kw_only=True, frozen=True):
    """One entry of the audit log of models.

    Attributes:
        id: grows with every entry.
        action: ``train``, ``promote`` or ``rollback``.
        name: registered model name.
        version: the version that was made, or that serves from then on; empty until it has one.
        previous: the version that served before; empty for none.
        changed_by: who did it.
        reason: why, in the words of who did it.
        state: ``begun`` (also after its process was killed), ``done`` or ``failed``.
        begun_at: epoch milliseconds.
        ended_at: epoch milliseconds; None while it is only begun.
        error: why it failed.
    """

    id: int
    action: str
    name: str
    version: str
    previous: str
    changed_by: str
    reason: str
    state: str
    begun_at: int
    ended_at: int | None = None
    error: str | None = None


class ModelChanges(msgspec.Struct, kw_only=True, frozen=True):
    """One page of the audit log of models, newest first.

    Attributes:
        changes: the entries.
        next_cursor: give it as ``cursor`` for the next page; None at the end.
    """

    changes: list[ModelChangeInfo]
    next_cursor: str | None = None


class WorkerHealth(msgspec.Struct, kw_only=True, frozen=True):
    """How one of the processes is that answer requests (``tactful serve --workers``).

    Attributes:
        number: of its place, from 0; whoever replaces it has the same.
        state: ``ready``; ``starting``; ``down``, until another one is started; ``silent``, it runs
            and has said nothing for five seconds; ``behind``, it has served another model or fewer
            items than the server has for five seconds.
        restarts: how often it was replaced since the server started.
        model_version: what it ranks by; None while it does not serve, or without a model.
        items_behind: how many items it does not know yet; None while it does not serve.
    """

    number: int
    state: str
    restarts: int
    model_version: str | None = None
    items_behind: int | None = None


class Health(msgspec.Struct, kw_only=True, frozen=True):
    """Whether the server is alive (``/healthz``) or ready for traffic (``/readyz``).

    Attributes:
        status: ``ok``, ``starting``, ``stopping`` or ``failed``.
        version: version of the server.
        checks: what was looked at, each ``ok`` or what is wrong in words.
        workers: the processes that answer requests; None where there is only the server's own.
    """

    status: str
    version: str
    checks: dict[str, str] = {}
    workers: list[WorkerHealth] | None = None


def to_milliseconds(moment: int | dt.datetime) -> int:
    """Epoch milliseconds of a `Moment`; parts of a millisecond are cut off.

    Raises:
        ValueError: if it is before 1970 or after the year 3000.
    """
    if isinstance(moment, int):
        return moment
    milliseconds = (moment - _EPOCH) // dt.timedelta(milliseconds=1)
    if not 0 <= milliseconds <= LAST_MOMENT:
        raise ValueError("the time must lie between the years 1970 and 3000")
    return milliseconds
