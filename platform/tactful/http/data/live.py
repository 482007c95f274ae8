"""Endpoint that streams the newest events and refusals, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from tactful.cleaning.redrive import as_sent
from tactful.http.asgi import Call, Endpoint, Reply
from tactful.http.common import caller_of, stored
from tactful.http.data.dead_letters import hashed
from tactful.schemas.data.live import LiveMessage
from tactful.schemas.problems import ProblemError
from tactful.schemas.users import EVERYBODY

if TYPE_CHECKING:
    from tactful.server.platform import Platform

STREAM = "/v1/events/stream"
_MEDIA = b"text/event-stream"
_EVERY_S = 1.0
_HEARTBEAT_S = 10.0


class StreamQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Time after which the stream ends; browsers open it again by themselves."""

    seconds: Annotated[int, Meta(ge=1, le=3_600)] = 600


async def _get_stream(platform: Platform, call: Call) -> Reply:
    query = call.query(StreamQuery)
    if platform.ingest.feed.is_full:
        raise ProblemError("overloaded", "too many streams are open: close one", retry_after=10)
    record = partial(platform.accesses.record, EVERYBODY, "stream", by=caller_of(call))
    await stored(record, "the access cannot be noted now")
    return Reply(200, b"", _MEDIA, parts=_messages(platform, query.seconds))


async def _messages(platform: Platform, seconds: float) -> AsyncGenerator[bytes]:
    """Yield a message each second if anything came, else a comment now and then."""
    loop, clock = asyncio.get_running_loop(), platform.resources.installation.clock
    ends, sent = loop.time() + seconds, loop.time()
    if platform.ingest.feed.is_full:  # others were opened while the access was noted
        yield b": too many streams are open\n\n"
        return
    with platform.ingest.feed.listening() as listener:
        yield b": stream of the newest events\n\n"
        while (left := ends - loop.time()) > 0:
            await asyncio.sleep(min(_EVERY_S, left))
            accepted, refused, newest = listener.take()
            if accepted or refused:
                message = LiveMessage(
                    at=clock(),
                    accepted=accepted,
                    refused=refused,
                    newest=[hashed(as_sent(event), platform.hash_secret) for event in newest],
                )
                yield b"event: events\ndata: " + msgspec.json.encode(message) + b"\n\n"
                sent = loop.time()
            elif loop.time() - sent >= _HEARTBEAT_S:
                yield b": nothing came\n\n"
                sent = loop.time()


LIVE_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        STREAM,
        "Follow the newest events and refusals",
        _get_stream,
        details=(
            "Server-sent events: once a second, what came at this server: accepted events by type, "
            "refused ones by code, and the 50 newest with users, devices and sessions as keyed "
            "hashes. Opening it is noted in the trail of accesses. A server with worker processes "
            "does not offer it."
        ),
        scope="admin",
        query=StreamQuery,
        answer_media=("text/event-stream",),
        problems=("not_ready", "overloaded"),
    ),
)
