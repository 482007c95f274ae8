"""The wire contract: decodes request bodies to events, items and users.

A well-formed batch is decoded in one call. Only if that fails, it is split, and every element is
checked by itself: one bad event never fails its neighbours.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.log_entries import (
    DEVICE_PREFIX,
    LATEST_TIMESTAMP,
    Event,
    Item,
    Property,
    User,
)
from tactful_streaming.contract.split_batch import split_array, split_lines, too_deep
from tactful_streaming.errors import PayloadError

_BEHAVIOUR = {"view", "click", "search", "rating", "leave", "dislike", "hide"}
_SHOWN = {"impression", "exposure"}
_ORDERS = {"add_to_cart", "remove_from_cart", "purchase", "payment", "refund", "return"}
EVENT_TYPES = frozenset(_BEHAVIOUR | _SHOWN | _ORDERS)
"""Event types of the contract; a shop's own are ``x.<custom>``."""

_MAX_ID = 256
_MAX_ENTRIES = 64
_MAX_DEPTH = 4

CUSTOM_TYPE = r"x\.[a-z0-9_.-]{1,62}"
_CUSTOM_TYPE = re.compile(CUSTOM_TYPE)
_NAMED = re.compile("Object contains unknown field `[A-Za-z_][A-Za-z0-9_]{0,39}`")
_AROUND = re.compile("Object contains unknown field `(batch|data|events|items|users)`")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)

_Id = Annotated[str, Meta(min_length=1, max_length=_MAX_ID)]
_Name = Annotated[str, Meta(min_length=1, max_length=64)]
Text = Annotated[str, Meta(max_length=2048)]
_Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Scalar = Text | _Integer | float | bool | None
_List = Annotated[list[_Scalar], Meta(max_length=256)]
Properties = Annotated[dict[_Name, _Scalar | _List], Meta(max_length=_MAX_ENTRIES)]
Context = Annotated[dict[_Name, _Scalar], Meta(max_length=_MAX_ENTRIES)]
_Moment = int | Annotated[dt.datetime, Meta(tz=True)]


class Rejection(Struct, kw_only=True, frozen=True):
    """The rejection of one element of a batch."""

    index: int  # position in the batch as sent, from 0
    code: str  # short stable name of the reason
    message: str  # the problem and its remedy


@dataclass(frozen=True)
class Limits:
    """Limits of a batch."""

    max_bytes: int = 4_194_304  # size of one body
    max_batch: int = 1000  # elements in one body
    # Most milliseconds that a timestamp may be ahead of the server's clock.
    future_ms: int = 300_000
    # First credible timestamp, epoch milliseconds; 2000-01-01 by default.
    earliest: int = 946_684_800_000


DEFAULT_LIMITS = Limits()


def new_event_id() -> str:
    """Make an event id for an event that came without one: 32 random hex digits."""
    return uuid.uuid4().hex


class _WireEvent(Struct, kw_only=True, frozen=True, gc=False, forbid_unknown_fields=True):
    type: str
    timestamp: _Moment
    event_id: _Id | UnsetType | None = UNSET
    user_id: _Id | UnsetType | None = UNSET
    device_id: _Id | UnsetType | None = UNSET
    session_id: _Id | UnsetType | None = UNSET
    item_id: _Id | UnsetType | None = UNSET
    recommendation_id: _Id | UnsetType | None = UNSET
    properties: Properties | UnsetType = UNSET
    context: Context | UnsetType = UNSET


class _WireItem(Struct, kw_only=True, frozen=True, gc=False, forbid_unknown_fields=True):
    item_id: _Id
    timestamp: _Moment | UnsetType | None = UNSET
    title: Text | UnsetType | None = UNSET
    category: _Id | UnsetType | None = UNSET
    price: float | UnsetType | None = UNSET
    available: bool | UnsetType = UNSET
    properties: Properties | UnsetType = UNSET
    image: str | UnsetType | None = UNSET


class _WireUser(Struct, kw_only=True, frozen=True, gc=False, forbid_unknown_fields=True):
    user_id: _Id
    timestamp: _Moment | UnsetType | None = UNSET
    properties: Properties | UnsetType = UNSET


class _RejectedError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


_Wire = TypeVar("_Wire")
_Out = TypeVar("_Out")


class _Format(Generic[_Wire]):
    """Decoders of one kind of element."""

    def __init__(self, wire: type[_Wire]) -> None:
        self.element: msgspec.json.Decoder[_Wire] = msgspec.json.Decoder(wire)
        self.array: msgspec.json.Decoder[list[_Wire]] = msgspec.json.Decoder(list[wire])  # type: ignore[valid-type]


_EVENTS = _Format(_WireEvent)
_ITEMS = _Format(_WireItem)
_USERS = _Format(_WireUser)
_encoder = msgspec.json.Encoder()
_raw_decoder: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])


def decode_events(
    body: bytes,
    *,
    now: int,
    limits: Limits = DEFAULT_LIMITS,
    content_type: str | None = None,
    mint: Callable[[], str] = new_event_id,
    received_at: int | None = None,
    sender: str | None = None,
) -> tuple[list[tuple[int, Event]], list[Rejection]]:
    """Decode a body of events: one object, an array, or NDJSON.

    ``application/x-ndjson`` as `content_type` selects NDJSON, else the body decides. `now` is the
    server's time, epoch milliseconds; `mint` makes the id of an event that came without one;
    `received_at` becomes the time of receipt of every event, and `sender` the kind of key that
    sent it: a request cannot give them.
    Returns accepted elements with their index in the batch, and a rejection for each other one.

    Raises:
        PayloadError: if the body cannot be split into elements, or is too long.
    """

    def accept(wire: _WireEvent, plain: bool) -> Event:
        timestamp = _timestamp(wire.timestamp, now, limits)
        if wire.type not in EVENT_TYPES and not _CUSTOM_TYPE.fullmatch(wire.type):
            raise _RejectedError(
                "unknown_type",
                f"type {wire.type[:64]!r} is not one of {', '.join(sorted(EVENT_TYPES))} "
                "or x.<custom> (lower-case letters, digits, . _ -)",
            )
        event = Event(
            event_id=wire.event_id or mint(),
            type=wire.type,
            timestamp=timestamp,
            user_id=wire.user_id or None,
            device_id=wire.device_id or None,
            session_id=wire.session_id or None,
            item_id=wire.item_id or None,
            recommendation_id=wire.recommendation_id or None,
            properties=wire.properties or {},
            context=wire.context or {},
            received_at=received_at,
            sender=sender,
        )
        if event.user_id is None and event.device_id is None:
            problem = "the event has no user: set user_id, device_id or both"
            raise _RejectedError("no_subject", problem)
        _check_user_id(event.user_id)
        if not plain:
            _check_ids(event, _EVENT_IDS)
        if event.properties:
            _check_properties(event.type, event.properties, plain)
        return event

    return _decode(body, _EVENTS, accept, limits, content_type)


def decode_items(
    body: bytes, *, now: int, limits: Limits = DEFAULT_LIMITS, content_type: str | None = None
) -> tuple[list[tuple[int, Item]], list[Rejection]]:
    """Decode a body of item upserts; an item without a timestamp is as of `now`.

    Arguments, result and errors are those of :func:`decode_events`.
    """

    def accept(wire: _WireItem, plain: bool) -> Item:
        price = wire.price if wire.price is not UNSET else None
        if price is not None and price < 0:
            raise _RejectedError("bad_number", "price is negative: an item costs 0 or more")
        item = Item(
            item_id=wire.item_id,
            timestamp=_timestamp(wire.timestamp, now, limits),
            title=wire.title or None,
            category=wire.category or None,
            price=price,
            available=wire.available is not False,
            properties=wire.properties or {},
            image=wire.image or UNSET,
        )
        if not plain:
            _check_ids(item, ("item_id", "category"))
        return item

    return _decode(body, _ITEMS, accept, limits, content_type)


def decode_users(
    body: bytes, *, now: int, limits: Limits = DEFAULT_LIMITS, content_type: str | None = None
) -> tuple[list[tuple[int, User]], list[Rejection]]:
    """Decode a body of user upserts; a user without a timestamp is as of `now`.

    Arguments, result and errors are those of :func:`decode_events`.
    """

    def accept(wire: _WireUser, plain: bool) -> User:
        _check_user_id(wire.user_id)
        user = User(
            user_id=wire.user_id,
            timestamp=_timestamp(wire.timestamp, now, limits),
            properties=wire.properties or {},
        )
        if not plain:
            _check_ids(user, ("user_id",))
        return user

    return _decode(body, _USERS, accept, limits, content_type)


def _decode(
    body: bytes,
    format_: _Format[_Wire],
    accept: Callable[[_Wire, bool], _Out],
    limits: Limits,
    content_type: str | None,
) -> tuple[list[tuple[int, _Out]], list[Rejection]]:
    wires: Sequence[Any]
    if len(body) > limits.max_bytes:
        raise PayloadError(
            "body_too_long",
            f"the body has {len(body)} bytes, at most {limits.max_bytes} are allowed: "
            "send smaller batches",
        )
    shape = _shape(body, content_type)
    try:
        if shape == "array":
            decoded = format_.array.decode(body)
        elif shape == "lines":
            decoded = format_.element.decode_lines(body)
        else:
            decoded = [format_.element.decode(body)]
        wires = decoded if _same_strings(body, decoded) else _split(body, shape, limits.max_batch)
    except DECODE_ERRORS:
        wires = _split(body, shape, limits.max_batch)
    if len(wires) > limits.max_batch:
        raise PayloadError(
            "batch_too_long",
            f"{len(wires)} elements in one body, at most {limits.max_batch} are allowed: "
            "send smaller batches",
        )
    plain = _is_plain(body)
    accepted: list[tuple[int, _Out]] = []
    rejected: list[Rejection] = []
    for index, wire in enumerate(wires):
        try:
            element: Any = _decode_one(wire, format_) if isinstance(wire, bytes) else wire
            accepted.append((index, accept(element, plain)))
        except _RejectedError as error:
            rejected.append(Rejection(index=index, code=error.code, message=error.message))
    return accepted, rejected


def _shape(body: bytes, content_type: str | None) -> str:
    if content_type is not None and ("ndjson" in content_type or "jsonl" in content_type):
        return "lines"
    head = body[:256].lstrip()[:1] or body.lstrip()[:1]
    if head == b"[":
        return "array"
    if head != b"{":
        problem = "is not a JSON object, array or NDJSON" if head else "is empty"
        raise PayloadError("not_json", f"the body {problem}")
    first, _, rest = body.strip().partition(b"\n")
    return "lines" if rest and first.rstrip().endswith(b"}") else "object"


def split_elements(body: bytes, content_type: str | None, most: int) -> list[bytes]:
    """Split a body into its elements, which need not be valid JSON; see `decode_events`.

    If there are more than `most` elements, at least one more is returned. Raises PayloadError if
    the body cannot be split.
    """
    return _split(body, _shape(body, content_type), most)


def _split(body: bytes, shape: str, most: int) -> list[bytes]:
    if shape == "lines":
        return split_lines(body)
    if shape == "object":
        return [body]
    try:
        return [bytes(raw) for raw in _raw_decoder.decode(body)]
    except DECODE_ERRORS:
        return split_array(body, most)


def _decode_one(element: bytes, format_: _Format[_Wire]) -> _Wire:
    if too_deep(element, _MAX_DEPTH):
        raise _RejectedError(
            "too_deep",
            f"nested deeper than {_MAX_DEPTH} levels: properties hold scalars and lists of scalars",
        )
    try:
        wire = format_.element.decode(element)
    except msgspec.ValidationError as error:
        text = str(error)
        code = next((code for code, sign in _VALIDATION_CODES if sign in text), "wrong_type")
        if code == "unknown_field" and not _NAMED.fullmatch(text):
            text = "Object contains an unknown field"  # its name may be personal data
        elif _AROUND.fullmatch(text):
            text += "; send a list as it is, without an object around it"
        raise _RejectedError(code, text) from error
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        # msgspec raises UnicodeDecodeError before 0.23, and DecodeError since.
        if isinstance(error, UnicodeDecodeError) or "UTF-8" in str(error):
            message = "text is not UTF-8: encode the body as UTF-8"
            raise _RejectedError("not_utf8", message) from error
        raise _RejectedError("not_json", f"{error} (NaN and Infinity are no JSON)") from error
    if not _same_strings(element, wire):
        json.loads(element, object_pairs_hook=_reject_duplicate_keys)
    return wire


def _same_strings(body: bytes, decoded: Any) -> bool:
    r"""Whether `decoded` holds every string of `body`: then no key is repeated.

    Decoding keeps only the last value of a repeated key, so the text encoded again has fewer
    quotes. The only other way to change their number is ``\u0022``, a quote written as an escape:
    then the answer is False, and the slow path compares the keys themselves.
    """
    return body.count(b'"') == _encoder.encode(decoded).count(b'"') and rb"\u0022" not in body


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> None:
    keys: set[str] = set()
    for key, _ in pairs:
        if key in keys:
            raise _RejectedError("duplicate_key", f"key {key[:64]!r} is repeated in an object")
        keys.add(key)


def _is_plain(body: bytes) -> bool:
    """Whether no string of `body` can hold a control character.

    JSON allows them only as escapes, but for DEL and the C1 block, whose UTF-8 begins with C2.
    """
    return b"\\" not in body and b"\x7f" not in body and b"\xc2" not in body


_EVENT_IDS = ("event_id", "user_id", "device_id", "session_id", "item_id", "recommendation_id")


def _check_ids(entry: Struct, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(entry, name)
        if value is not None and _CONTROL.search(value):
            raise _RejectedError("bad_id", f"{name} holds a control character")


def _check_properties(type_: str, properties: dict[str, Property], plain: bool) -> None:
    category = properties.get("category")
    if category is not None:
        if type(category) is not str:
            raise _RejectedError("wrong_type", "properties.category is not text")
        if not 1 <= len(category) <= _MAX_ID:
            raise _RejectedError("bad_id", f"properties.category has not 1 to {_MAX_ID} characters")
        if not plain and _CONTROL.search(category):
            raise _RejectedError("bad_id", "properties.category holds a control character")
    for name in ("price", "quantity", "dwell_ms"):
        value = properties.get(name)
        if value is None:
            continue
        if type(value) is not float and type(value) is not int:
            raise _RejectedError("wrong_type", f"properties.{name} is not a number")
        if not math.isfinite(value):
            raise _RejectedError("bad_number", f"properties.{name} is not finite")
        if value < 0 and type_ not in ("refund", "return"):
            raise _RejectedError(
                "bad_number", f"properties.{name} is negative: only a refund or a return may be"
            )


def _timestamp(moment: int | dt.datetime | UnsetType | None, now: int, limits: Limits) -> int:
    """Return epoch milliseconds within the limits; `now` without a moment."""
    if moment is None or moment is UNSET:
        return now
    timestamp = moment if isinstance(moment, int) else (moment - _EPOCH) // _MILLISECOND
    if timestamp > now + limits.future_ms:
        problem = "is out of range" if timestamp > LATEST_TIMESTAMP else "is in the future"
        raise _RejectedError("in_future", f"timestamp {problem}: check the sender's clock")
    if timestamp < limits.earliest:
        is_seconds = limits.earliest // 1000 <= timestamp
        hint = ": are these seconds? send milliseconds" if is_seconds else ""
        first = (_EPOCH + dt.timedelta(milliseconds=limits.earliest)).date()
        raise _RejectedError("too_old", f"timestamp is before {first.isoformat()}{hint}")
    return timestamp


def _check_user_id(user_id: str | None) -> None:
    if user_id is not None and user_id.startswith(DEVICE_PREFIX):
        problem = f"user_id begins with {DEVICE_PREFIX!r}, which stands for devices"
        raise _RejectedError("bad_id", problem)


_VALIDATION_CODES = (
    ("missing_field", "missing required field"),
    ("unknown_field", "unknown field"),
    ("bad_timestamp", "RFC3339"),
    ("bad_timestamp", "`datetime`"),
    ("bad_timestamp", "$.timestamp"),
    ("bad_number", "Number out of range"),
    ("bad_number", "Integer value out of range"),
    ("bad_number", "Expected `int` "),
    ("too_long", "of length"),
)
