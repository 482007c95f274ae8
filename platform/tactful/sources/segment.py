"""Messages of Segment's HTTP API, which RudderStack's clients send, too.

One call for each kind of message, and ``batch`` for many::

    {"sentAt": "2026-03-01T12:00:05Z",
     "batch": [{"type": "track", "event": "Product Viewed", "userId": "ada", "messageId": "m-1",
                "timestamp": "2026-03-01T12:00:00Z", "properties": {"product_id": "tea"}}]}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tactful.sources.decode import decode_json
from tactful.sources.mapping import KINDS, OTHER
from tactful.sources.translate import Message, content_id
from tactful.sources.values import as_moment

BATCHES = ("batch", "import")
"""Calls with many messages."""

CALLS = (*BATCHES, *KINDS["segment"])
"""Last parts of the paths that clients send to."""

_SHARED = ("context", "integrations", "userId", "anonymousId")
_SENT = "sentAt"


def read_calls(body: bytes, call: str, *, received: int) -> list[Message]:
    """Return the messages of a call that was received at a time, epoch milliseconds.

    Raises:
        ValueError: if the body is no call; the message says why.
    """
    request = decode_json(body)
    if not isinstance(request, dict):
        raise ValueError("not a JSON object")
    if call not in BATCHES:
        return [_message(0, {"type": call, **request}, call, {}, received, Counter())]
    batch = request.get("batch")
    if not isinstance(batch, list):
        raise ValueError("the list `batch` is missing")
    return [*_messages(request, batch, received)]


def _messages(request: Mapping[str, Any], batch: list[Any], received: int) -> Iterator[Message]:
    repeated: Counter[str] = Counter()
    for index, message in enumerate(batch):
        if isinstance(message, dict):
            kind = message.get("type")
            yield _message(index, message, kind, request, received, repeated)
        else:
            problem = ("wrong_type", "a message is an object")
            yield Message(index, OTHER, {}, problem=problem)


def _message(
    index: int,
    message: dict[str, Any],
    kind: Any,
    request: Mapping[str, Any],
    received: int,
    repeated: Counter[str],
) -> Message:
    body = {**{name: request[name] for name in _SHARED if name in request}, **message}
    if isinstance(shared := request.get("context"), dict):
        own = message.get("context")
        body["context"] = {**shared, **(own if isinstance(own, dict) else {})}
    time, problem = _time(message, message.get(_SENT, request.get(_SENT)), received)
    identity = None
    if time is not None and "messageId" not in message:
        content = {name: value for name, value in message.items() if name != _SENT}
        first = content_id(content, 0)
        if first is not None:
            identity = content_id(content, repeated[first])
            repeated[first] += 1
    return Message(
        index=index,
        kind=kind if isinstance(kind, str) and kind in KINDS["segment"] else OTHER,
        body=body,
        time=time,
        fallback_id=identity,
        problem=problem,
    )


def _time(
    message: Mapping[str, Any], sent: Any, received: int
) -> tuple[int | None, tuple[str, str] | None]:
    """Return the time of a message by the server's clock, and a problem of it.

    Segment's correction is the time of receipt less the span between the message and its sending,
    both by the client's clock. A `timestamp` beside an `originalTimestamp` is such a time already,
    or one that the caller of a RudderStack client chose.
    """
    original, stamped = message.get("originalTimestamp"), message.get("timestamp")
    if stamped is not None and (original or message.get("receivedAt")) is not None:
        original, sent = stamped, None
    elif original is None:
        original = stamped
    if original is None:
        return None, None
    time, sent_at = as_moment(original), as_moment(sent)
    if time is None:
        return None, ("bad_timestamp", "the time of the message is no ISO 8601")
    if sent_at is not None:
        time = received - (sent_at - time)
    return (min(time, received) if sent_at is not None else time), None
