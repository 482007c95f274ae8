"""The door events, items and users come in by.

A request is decoded, rid of duplicates, appended durably together with whatever else arrives
meanwhile, and only then answered. An event id is accepted once: ids the engine has applied are
remembered by it, ids on their way from here to there are remembered here. A duplicate of an event
that is still being written waits for that write, because its answer, too, says "this is safe".
"""

from __future__ import annotations

import asyncio
import collections
import functools
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

import msgspec

from tactful.metrics.registry import Metrics
from tactful.pipeline.applier import Follower
from tactful.schemas.ingestion import EventsAccepted, Rejection, Upserted
from tactful.schemas.positions import Offsets, Position, merged, reaches
from tactful.schemas.problems import ProblemError
from tactful_streaming.contract.log_entries import (
    Entry,
    EntryFormat,
    Event,
    Item,
    User,
    decode_entry,
    encode_entry,
    route_key,
    subject_key,
)
from tactful_streaming.contract.wire import Limits, decode_events, decode_items, decode_users
from tactful_streaming.contract.wire import Rejection as Refusal
from tactful_streaming.engine.engine import Engine
from tactful_streaming.errors import BackpressureError, LogError, LogUnreachableError, PayloadError
from tactful_streaming.log.group_commit import Commit

logger = logging.getLogger(__name__)

_GATHERED_S = 0.02
"""How long a list that was shown may wait for company: a batch of many costs log, engine and
workers little more than one of one, and nobody waits for what no client has sent."""

_NO_CONSENT = (
    "this person has not agreed that anything of them is kept, or was erased: send what they say "
    "with PUT /v1/users/{user_id}/consent; consent.default says what holds for who said nothing"
)


class Door:
    """Accepts events, items and users of one platform. Used from the event loop only."""

    def __init__(
        self,
        *,
        ends: Callable[[], Offsets],
        engine: Engine,
        commit: Commit,
        follower: Follower,
        metrics: Metrics,
        limits: Limits,
        engine_lag: int,
        clock: Callable[[], int],
        show: Callable[[Offsets], Position],
        format: EntryFormat = "msgpack",
        stamps: bool = False,
        actions: Collection[str] = (),
        permit: Callable[[Event], Entry | None] = lambda event: event,
        described: Callable[[Sequence[User]], Awaitable[Collection[str]]] | None = None,
    ) -> None:
        """Open the door.

        Args:
            ends: how far the log goes, by partition.
            engine: knows which event ids were applied.
            commit: appends to the log, durably.
            follower: is told of what was appended.
            metrics: where to count.
            limits: what one element and one batch may weigh.
            engine_lag: records the engine may be behind before more are refused.
            clock: now in epoch milliseconds.
            show: a position as it goes over the wire.
            format: how entries are written in the log.
            stamps: note in the context of each event when it came, for rules about clocks.
            actions: types of events that are made here, and that nobody may send: what they set
                off, such as a coupon, is promised to whom the engine found.
            permit: the entry to keep of an event, by what the person has agreed to; None where
                nothing of it may be kept.
            described: told of users before they are appended; says of whom nothing may be kept.
        """
        self._ends = ends
        self._engine = engine
        self._commit = commit
        self._refused = False
        self._follower = follower
        self._metrics = metrics
        self._limits = limits
        self._engine_lag = engine_lag
        self._clock = clock
        self._show = show
        self._format = format
        self._stamps = stamps
        self._actions = frozenset(actions)
        self._permit = permit
        self._described = described
        self._pending: dict[str, asyncio.Future[Offsets]] = {}
        self._appended: collections.deque[tuple[Offsets, tuple[str, ...]]] = collections.deque()
        self._notes: list[Entry] = []
        self._noted: asyncio.Future[Offsets] | None = None
        self._gathered: asyncio.TimerHandle | None = None

    async def events(
        self,
        body: bytes,
        content_type: str | None = None,
        *,
        forbidden: Callable[[Event], str | None] | None = None,
    ) -> EventsAccepted:
        """Accept the events of one request body.

        Args:
            body: as sent.
            content_type: as sent.
            forbidden: says why the sender may not send an event, or None.

        Raises:
            ProblemError: if the body cannot be read or there is no room for more.
        """
        self._check_room()
        self._forget_applied()
        now = self._clock()
        try:
            decoded, refused = decode_events(
                body, now=now, limits=self._limits, content_type=content_type
            )
        except PayloadError as error:
            raise _bad_body(error) from None
        for reason in (forbidden, self._made_here if self._actions else None):
            if reason is not None:
                decoded, refused = _without(decoded, refused, reason)
        fresh: dict[str, Entry] = {}
        writes: set[asyncio.Future[Offsets]] = set()
        pending, seen = self._pending, self._engine.seen
        unwanted: list[Refusal] = []
        for index, event in decoded:
            entry = self._permit(_stamped(event, now) if self._stamps else event)
            if entry is None:
                unwanted.append(Refusal(index=index, code="no_consent", message=_NO_CONSENT))
                continue
            identifier = event.event_id
            if identifier in pending:
                writes.add(pending[identifier])
            elif identifier not in fresh and not seen(identifier):
                fresh[identifier] = entry
        if fresh:
            written = self._append([*fresh.values()], tuple(fresh))
            pending.update(dict.fromkeys(fresh, written))
            writes.add(written)
        position = await self._written(writes)
        duplicates = len(decoded) - len(unwanted) - len(fresh)
        if unwanted:
            refused = sorted([*refused, *unwanted], key=lambda refusal: refusal.index)
        self._count("event", len(fresh), duplicates, len(refused))
        return EventsAccepted(
            accepted=len(fresh),
            duplicates=duplicates,
            rejected=_told(refused),
            position=position,
        )

    def _made_here(self, event: Event) -> str | None:
        if event.type not in self._actions:
            return None
        return (
            f"{event.type!r} is the action of a sequence or a join: such events are made here and "
            "cannot be sent"
        )

    async def items(self, body: bytes, content_type: str | None = None) -> Upserted:
        """Accept the items of one request body; the last word on an item wins.

        Raises:
            ProblemError: if the body cannot be read or there is no room for more.
        """
        return await self._upserts("item", decode_items, body, content_type)

    async def users(self, body: bytes, content_type: str | None = None) -> Upserted:
        """Accept the users of one request body; the last word on a user wins.

        Raises:
            ProblemError: if the body cannot be read or there is no room for more.
        """
        return await self._upserts("user", decode_users, body, content_type)

    async def _upserts(
        self,
        kind: str,
        decode: Callable[..., tuple[Sequence[tuple[int, Item | User]], Sequence[Refusal]]],
        body: bytes,
        content_type: str | None,
    ) -> Upserted:
        self._check_room()
        try:
            decoded, refused = decode(
                body, now=self._clock(), limits=self._limits, content_type=content_type
            )
        except PayloadError as error:
            raise _bad_body(error) from None
        writes: set[asyncio.Future[Offsets]] = set()
        refusals = list(refused)
        entries = [entry for _, entry in decoded]
        if entries and self._described is not None:
            users = [entry for entry in entries if isinstance(entry, User)]
            unwanted = await self._described(users) if users else ()
            entries = []
            for index, entry in decoded:
                if isinstance(entry, User) and entry.user_id in unwanted:
                    refusals.append(Refusal(index=index, code="no_consent", message=_NO_CONSENT))
                else:
                    entries.append(entry)
            refusals.sort(key=lambda refusal: refusal.index)
        if entries:
            writes.add(self._append(entries, ()))
        position = await self._written(writes)
        self._count(kind, len(entries), 0, len(refusals))
        return Upserted(accepted=len(entries), rejected=_told(refusals), position=position)

    def note(self, payload: bytes) -> asyncio.Future[Offsets]:
        """Append an entry of the platform's own; one that finds no room is dropped and counted.

        It is appended with others, within 20 ms or just ahead of what comes in before that.

        Returns:
            The write of all that are appended with it; nobody needs to wait for it.
        """
        loop = asyncio.get_running_loop()
        entry = decode_entry(payload)
        if isinstance(entry, Event) and subject_key(entry) is not None:
            permitted = self._permit(entry)
            if permitted is None:  # withdrawn since the list was asked for
                nothing: asyncio.Future[Offsets] = loop.create_future()
                nothing.set_result({})
                return nothing
            entry = permitted
        if self._noted is None:
            self._noted = loop.create_future()
            self._gathered = loop.call_later(_GATHERED_S, self.write_notes)
        self._notes.append(entry)
        return self._noted

    def write_notes(self) -> None:
        """Append what was noted, ahead of what comes later: a click may follow from it."""
        if self._noted is None or self._gathered is None:
            return
        self._gathered.cancel()
        settle = functools.partial(self._settle_notes, len(self._notes), self._noted)
        written = self._write(self._notes)
        self._notes, self._noted, self._gathered = [], None, None
        written.add_done_callback(settle)

    def _append(
        self, entries: Sequence[Entry], identifiers: tuple[str, ...]
    ) -> asyncio.Future[Offsets]:
        self.write_notes()
        written = self._write(entries)
        written.add_done_callback(functools.partial(self._settle, identifiers))
        return written

    def _write(self, entries: Sequence[Entry]) -> asyncio.Future[Offsets]:
        payloads = [encode_entry(entry, self._format) for entry in entries]
        keys = [route_key(entry) for entry in entries]
        return asyncio.ensure_future(self._commit.append_keyed(payloads, keys))

    def _settle_notes(
        self, count: int, noted: asyncio.Future[Offsets], written: asyncio.Future[Offsets]
    ) -> None:
        error = asyncio.CancelledError() if written.cancelled() else written.exception()
        if error is None:
            self._follower.notice({})
        else:
            self._metrics.impressions_lost.inc(count)
        if noted.done():  # whoever waited was cancelled, and this with it
            return
        if error is None:
            noted.set_result(written.result())
        elif isinstance(error, asyncio.CancelledError):
            noted.cancel()
        else:
            noted.set_exception(error)
            noted.exception()  # seen: often nobody waits

    def _check_room(self) -> None:
        self._follower.check()
        if self._follower.lag > self._engine_lag:
            raise ProblemError(
                "too_many_events", "the engine is behind; send it again later", retry_after=2
            )

    def _settle(self, identifiers: tuple[str, ...], written: asyncio.Future[Offsets]) -> None:
        """What was written is the engine's to apply; what was not never happened."""
        if written.cancelled() or written.exception() is not None or not written.result():
            # What waits on disk for an absent broker has no place yet: sent again, it is written
            # again, and the engine counts it once.
            for identifier in identifiers:
                self._pending.pop(identifier, None)
            return
        offsets = written.result()
        if identifiers:
            self._appended.append((offsets, identifiers))
        self._follower.notice(offsets)

    def _forget_applied(self) -> None:
        """Drop the ids the engine remembers by now."""
        applied = self._follower.applied
        while self._appended and reaches(applied, self._appended[0][0]):
            for identifier in self._appended.popleft()[1]:
                self._pending.pop(identifier, None)

    async def _written(self, writes: set[asyncio.Future[Offsets]]) -> Position:
        """Wait until all are durable; the position behind them, or of the log when none is new."""
        if not writes:
            return self._show(self._ends())
        offsets: Offsets = {}
        for write in writes:
            try:
                # The caller may go away; the write, and those who wait for it, must not.
                offsets = merged((offsets, await asyncio.shield(write)))
            except BackpressureError as error:
                raise ProblemError(
                    "too_many_events",
                    "the event log is behind; send it again later",
                    retry_after=math.ceil(error.retry_after),
                ) from None
            except LogUnreachableError as error:
                raise ProblemError(
                    "not_ready",
                    "the event log cannot be reached; send it again later",
                    retry_after=math.ceil(error.retry_after),
                ) from None
            except LogError as error:
                if not self._refused:
                    # Once, not for each request: the lines may lie on the disk that is full.
                    logger.error(
                        "events are refused with 503, and nothing of them is kept, until the log "
                        "can be written again: %s. If the disk is full, make room",
                        error,
                    )
                self._refused = True
                raise ProblemError(
                    "not_ready", "the event log cannot be written", retry_after=5
                ) from None
        if self._refused:
            logger.warning("the log can be written again: events are taken")
            self._refused = False
        return self._show(offsets)

    def _count(self, kind: str, accepted: int, duplicates: int, rejected: int) -> None:
        self._metrics.ingested(kind, "accepted", accepted)
        self._metrics.ingested(kind, "duplicate", duplicates)
        self._metrics.ingested(kind, "rejected", rejected)


def _stamped(event: Event, now: int) -> Event:
    """The event with the time of its receipt; what a sender says of that does not count."""
    return msgspec.structs.replace(event, context={**event.context, "received_at": now})


def _without(
    decoded: Sequence[tuple[int, Event]],
    refused: Sequence[Refusal],
    forbidden: Callable[[Event], str | None],
) -> tuple[list[tuple[int, Event]], list[Refusal]]:
    allowed: list[tuple[int, Event]] = []
    refusals = list(refused)
    for index, event in decoded:
        reason = forbidden(event)
        if reason is None:
            allowed.append((index, event))
        else:
            refusals.append(Refusal(index=index, code="forbidden", message=reason))
    return allowed, sorted(refusals, key=lambda refusal: refusal.index)


def _bad_body(error: PayloadError) -> ProblemError:
    return ProblemError("bad_body", error.message)


def _told(refused: Iterable[Refusal]) -> list[Rejection]:
    return [
        Rejection(index=refusal.index, code=refusal.code, message=refusal.message)
        for refusal in refused
    ]
