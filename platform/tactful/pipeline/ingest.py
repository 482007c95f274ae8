"""Ingestion of events, items and users.

A request is decoded, deduplicated, appended durably together with concurrent requests, and only
then acknowledged. An event id is accepted once within its sender: the engine holds the keys of
applied events, this module those of events that are not applied yet. A duplicate of an event that
is being written waits for that write, since its response confirms durability, too.
"""

from __future__ import annotations

import asyncio
import collections
import functools
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from tactful.event_log.impressions import IMPRESSION_ID
from tactful.event_log.recipients import RecommendationIds
from tactful.metrics.registry import Metrics
from tactful.pipeline.applier import LogApplier
from tactful.pipeline.backends import Backend
from tactful.pipeline.batch_order import BatchOrder, Place
from tactful.pipeline.live_feed import LiveFeed
from tactful.pipeline.log_writes import LogWrites, Write
from tactful.schemas.ingestion import EventsAccepted, Rejection, Upserted
from tactful.schemas.positions import Offsets, reaches
from tactful.schemas.problems import ProblemError
from tactful.subjects.minimise import Minimiser
from tactful.subjects.permissions import without_claim
from tactful_streaming.contract import decode_requests as wire
from tactful_streaming.contract.log_entries import (
    SERVER,
    Entry,
    Event,
    Item,
    User,
    decode_entry,
    event_key,
    subject_key,
)
from tactful_streaming.errors import PayloadError

_NO_CONSENT = (
    "this user has not agreed that data of them are kept, or was erased: send their decision with "
    "PUT /v1/users/{user_id}/consent; consent.default applies to users without a decision"
)

_RESERVED_ID = (
    "event ids that begin with {!r} are those of the platform's own events: send another, or none"
)
_RESERVED = "{!r} is the action of a sequence or a join: only the platform creates such events"

_ANYWHERE = Place()

_T = TypeVar("_T", bound=msgspec.Struct)
Decoded = tuple[Sequence[tuple[int, _T]], Sequence[wire.Rejection]]
"""Valid elements of a body with their indexes, and the rejected ones."""


async def without_pictures(items: Sequence[tuple[int, Item]]) -> Decoded[Item]:
    """Return the items without their pictures."""
    return [(at, msgspec.structs.replace(item, image=msgspec.UNSET)) for at, item in items], []


@dataclass(frozen=True)
class IngestOptions:
    """Limits and rules of ingestion."""

    limits: wire.Limits  # size limits of one element and of one batch
    engine_lag: int  # records that the engine may be behind before more are refused
    # Event types that only the platform creates, such as coupon offers; clients must not send them
    reserved: frozenset[str] = frozenset()
    # Beginnings of the ids of such events; clients must not send them either
    reserved_ids: tuple[str, ...] = (IMPRESSION_ID,)
    # Checks signed ids of impressions from server keys; None: they are kept as sent
    ids: RecommendationIds | None = None
    # Returns the entry to keep of an event, restricted by the user's consent; None: keep nothing
    permit: Callable[[Event], Entry | None] = lambda event: event
    # Append a repetition of an event that is not applied yet, for rules that may set the first one
    # aside: else the engine's lag, which others cause, would decide
    repeats: bool = False
    # Returns an exposure as the server's own if it is proven, else as it came
    proven: Callable[[Event], Event] = lambda event: event
    # Shortens named fields of what clients send, before anything else; None: nothing is named
    minimise: Minimiser | None = None
    # Receives users before they are appended; returns the ids of which nothing may be kept
    describe: Callable[[Sequence[User]], Awaitable[Collection[str]]] | None = None
    # Keeps the pictures of items, before these are appended with references to them; returns the
    # items, and refusals of those whose picture cannot be read
    pictures: Callable[[Sequence[tuple[int, Item]]], Awaitable[Decoded[Item]]] = without_pictures


class EventIngest:
    """Accepts events, items and users of one platform. Used from the event loop only.

    An event passes through these stages::

        decode -> reject -> permit -> deduplicate -> append -> acknowledge
                                         |             |
                  _pending: {event key: future}    _appended: [(offsets, event keys)]

    A key stays in `_pending` until the engine has applied its event and remembers it.
    """

    def __init__(
        self,
        backend: Backend,
        applier: LogApplier,
        metrics: Metrics,
        options: IngestOptions,
        *,
        clock: Callable[[], int],
    ) -> None:
        """Prepare ingestion."""
        self._engine = backend.engine
        self._applier = applier
        self._metrics = metrics
        self._options = options
        self._clock = clock
        self._order = BatchOrder()
        self.feed = LiveFeed()  # passes on accepted events and refusals to those who look now
        self._pending: dict[str, Write] = {}
        self._appended: collections.deque[tuple[Offsets, tuple[str, ...]]] = collections.deque()
        self._writes = LogWrites(backend, applier, metrics, clock=clock)

    @property
    def limits(self) -> wire.Limits:
        """Size limits of one element and of one batch."""
        return self._options.limits

    @property
    def unwritten_since(self) -> int | None:
        """Begin of the oldest write that is not durable yet, epoch ms; read by threads."""
        return self._writes.unwritten_since

    async def events(
        self,
        body: bytes,
        content_type: str | None = None,
        *,
        sender: str = SERVER,
        forbidden: Callable[[Event], str | None] | None = None,
        count: Callable[[int, list[str | None]], None] | None = None,
        opted_out: bool = False,
        place: Place = _ANYWHERE,
        import_id: str | None = None,
    ) -> EventsAccepted:
        """Accept the events of one body; `forbidden` returns a reason to reject an event.

        `sender` is the kind of key that sent them: an event counts once within its sender.
        `count` receives the number of events and their devices, and may refuse them all. With
        `opted_out` no event claims consent. They are appended at their `place`. `import_id` is the
        import that they belong to.

        Raises:
            ProblemError: if the body is invalid, or the engine or the log is behind.
        """
        await self._order.reach(place.after)  # until it is appended, nothing suspends it any more
        now = self._clock()
        decode = functools.partial(wire.decode_events, received_at=now, sender=sender)
        decoded, refused = self._decode(decode, body, content_type, import_id)
        if count is not None:
            count(len(decoded) + len(refused), [event.device_id for _, event in decoded])
        self._forget_applied()
        refusals = [*refused]
        permitted = self._permitted(decoded, forbidden, refusals, opted_out=opted_out)
        fresh: dict[str, Entry] = {}
        repeated: list[Entry] = []
        writes: set[Write] = set()
        pending, keys = self._pending, [event_key(event) for event, _ in permitted]
        former = [event.event_id for event, _ in permitted]
        seen = self._engine.seen_many(keys, now, former=former)
        for identifier, (_, entry) in zip(keys, permitted, strict=True):
            if identifier in pending:
                writes.add(pending[identifier])
                repeated += [entry] if self._options.repeats else []
            elif identifier not in fresh and identifier not in seen:
                fresh[identifier] = entry
        if fresh or repeated:
            written = self._append([*fresh.values(), *repeated], tuple(fresh))
            pending.update(dict.fromkeys(fresh, written))
            writes.add(written)
        self._order.note(place.batch)
        self._publish(permitted, fresh, refusals)
        position = await self._writes.written(writes)
        duplicates = len(decoded) + len(refused) - len(refusals) - len(fresh)
        self._count("event", len(fresh), duplicates, refusals)
        self._metrics.stepped(event.type for event, _ in permitted)
        return EventsAccepted(
            accepted=len(fresh),
            duplicates=duplicates,
            rejected=_rejections(refusals),
            position=position,
        )

    def _publish(
        self,
        permitted: Sequence[tuple[Event, Entry]],
        fresh: Collection[str],
        refusals: Sequence[wire.Rejection],
    ) -> None:
        """Pass new events and refusals on to the live feed."""
        if self.feed.is_heard:
            by_key = {event_key(event): event for event, _ in permitted}
            accepted = [event for key, event in by_key.items() if key in fresh]
            self.feed.publish(accepted, [refusal.code for refusal in refusals])

    def _permitted(
        self,
        decoded: Sequence[tuple[int, Event]],
        forbidden: Callable[[Event], str | None] | None,
        refusals: list[wire.Rejection],
        *,
        opted_out: bool,
    ) -> list[tuple[Event, Entry]]:
        """Return the events that may be kept, each with its entry; add others to `refusals`."""
        permitted: list[tuple[Event, Entry]] = []
        for index, event in decoded:
            event, message = self._checked(event, forbidden)
            if message is not None:
                refusals.append(wire.Rejection(index=index, code="forbidden", message=message))
                continue
            entry = self._options.permit(without_claim(event) if opted_out else event)
            if entry is None:
                refusals.append(_no_consent(index))
            else:
                permitted.append((event, entry))
        return permitted

    def _checked(
        self, event: Event, forbidden: Callable[[Event], str | None] | None
    ) -> tuple[Event, str | None]:
        """Return an event, or the server's impression that it proves, and why it is refused."""
        if forbidden is not None or event.type == "exposure":
            refusal = (forbidden and forbidden(event)) or self._reserved(event)
            proven = event.type == "exposure" and refusal is None
            return (self._options.proven(event) if proven else event), refusal
        given = self._as_given(event) if event.type == "impression" else event
        return given, self._reserved(event) if given is event else None

    def _as_given(self, event: Event) -> Event:
        """Return an impression of a server key as the server's own if its id proves it."""
        ids = self._options.ids
        if ids is None or not isinstance(event.properties.get("items"), list):
            return event
        return ids.as_given(event, self._clock()) or event

    def _reserved(self, event: Event) -> str | None:
        """Return why only the platform may create an event; None for other events."""
        if event.type in self._options.reserved:
            return _RESERVED.format(event.type)
        if event.event_id.startswith(self._options.reserved_ids):
            return _RESERVED_ID.format(event.event_id.partition(":")[0] + ":")
        return None

    async def items(
        self,
        body: bytes,
        content_type: str | None = None,
        *,
        place: Place = _ANYWHERE,
        import_id: str | None = None,
    ) -> Upserted:
        """Accept the items of one body; the last version of an item counts; see `events`."""
        await self._order.reach(place.after)
        decoded, refused = self._decode(wire.decode_items, body, content_type, import_id)
        taken, unread = await self._options.pictures(decoded)
        items = [item for _, item in taken]
        return await self._upserted("item", items, [*refused, *unread], place)

    async def users(
        self,
        body: bytes,
        content_type: str | None = None,
        *,
        place: Place = _ANYWHERE,
        import_id: str | None = None,
    ) -> Upserted:
        """Accept the users of one body; the last version of a user counts; see `events`."""
        await self._order.reach(place.after)
        decoded, refused = self._decode(wire.decode_users, body, content_type, import_id)
        describe, users = self._options.describe, [user for _, user in decoded]
        unwanted = await describe(users) if users and describe is not None else ()
        kept = [user for user in users if user.user_id not in unwanted]
        unkept = [_no_consent(index) for index, user in decoded if user.user_id in unwanted]
        return await self._upserted("user", kept, [*refused, *unkept], place)

    async def _upserted(
        self,
        kind: str,
        entries: Sequence[Item | User],
        refusals: Sequence[wire.Rejection],
        place: Place,
    ) -> Upserted:
        writes = {self._append(entries, ())} if entries else set()
        self._order.note(place.batch)
        position = await self._writes.written(writes)
        self._count(kind, len(entries), 0, refusals)
        return Upserted(accepted=len(entries), rejected=_rejections(refusals), position=position)

    def _decode(
        self,
        decode: Callable[..., Decoded[_T]],
        body: bytes,
        content_type: str | None,
        import_id: str | None,
    ) -> Decoded[_T]:
        self._applier.check()
        if self._applier.lag > self._options.engine_lag:
            raise ProblemError(
                "too_many_events", "the engine is behind; send it again later", retry_after=2
            )
        try:
            decoded, refused = decode(
                body, now=self._clock(), limits=self._options.limits, content_type=content_type
            )
        except PayloadError as error:
            raise ProblemError("bad_body", error.message) from None
        if (minimise := self._options.minimise) is not None:
            decoded = [(index, minimise(element)) for index, element in decoded]
        if import_id is not None:
            marked = functools.partial(msgspec.structs.replace, import_id=import_id)
            decoded = [(index, marked(element)) for index, element in decoded]
        return decoded, refused

    def append_internal(self, payload: bytes) -> Write:
        """Append an entry of the platform; if the log is full, drop and count it.

        It is appended with others, after 20 ms at most, or ahead of the next request before that.

        Returns:
            The write of the batch; waiting for it is optional.
        """
        entry = decode_entry(payload)
        if isinstance(entry, Event):
            entry = msgspec.structs.replace(entry, received_at=self._clock())
            if subject_key(entry) is not None:
                permitted = self._options.permit(entry)
                if permitted is None:  # consent was withdrawn after the request
                    nothing: Write = asyncio.get_running_loop().create_future()
                    nothing.set_result({})
                    return nothing
                entry = permitted
        return self._writes.gather(entry)

    def flush_internal(self) -> None:
        """Append internal entries now, so that a recommendation precedes its clicks."""
        self._writes.flush()

    def _append(self, entries: Sequence[Entry], identifiers: tuple[str, ...]) -> Write:
        return self._writes.append(entries, functools.partial(self._settle, identifiers))

    def _settle(self, identifiers: tuple[str, ...], written: Write) -> None:
        """Keep the ids of written events until they are applied; drop the ids of others."""
        if written.cancelled() or written.exception() is not None or not written.result():
            # Spooled events have no offset yet: sent again, they are written again, and the
            # engine deduplicates them.
            for identifier in identifiers:
                self._pending.pop(identifier, None)
            return
        offsets = written.result()
        if (traces := self._metrics.traces) is not None:
            traces.accepted()
        if identifiers:
            self._appended.append((offsets, identifiers))
        self._applier.notice(offsets)

    def _forget_applied(self) -> None:
        """Drop the ids of events that the engine has applied."""
        applied = self._applier.applied
        while self._appended and reaches(applied, self._appended[0][0]):
            for identifier in self._appended.popleft()[1]:
                self._pending.pop(identifier, None)

    def _count(
        self, kind: str, accepted: int, duplicates: int, refusals: Sequence[wire.Rejection]
    ) -> None:
        self._metrics.ingested(kind, "accepted", accepted)
        self._metrics.ingested(kind, "duplicate", duplicates)
        self._metrics.ingested(kind, "rejected", len(refusals))
        self._metrics.rejected(kind, (refusal.code for refusal in refusals))


def _no_consent(index: int) -> wire.Rejection:
    return wire.Rejection(index=index, code="no_consent", message=_NO_CONSENT)


def _rejections(refusals: Iterable[wire.Rejection]) -> list[Rejection]:
    ordered = sorted(refusals, key=lambda refusal: refusal.index)
    return msgspec.convert(ordered, list[Rejection], from_attributes=True)
