"""Layout of the engine's state in the store: key prefixes and the head record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

import msgspec

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.log_entries import Entry, decode_entry
from tactful_streaming.errors import EntryError, StateError
from tactful_streaming.state.store import StateStore

FORMAT = 2
META = b"meta"
ENTITY = b"e"  # `e<entity>:<key>`: the packed state of an entity
OWNER = b"s"  # `s<session>`: key of the user of a session, so that both move together
ITEM = b"i"  # `i<item>`: the newest description of an item
VERSIONS = b"v"  # `v<item>`: the last descriptions of an item, for features as of an event's time
USER = b"u"  # `u<user>`: the newest description of a user
CONSUMER = b"c"  # `c<name>`: the snapshot of a co-committed consumer
EVENT_ID = b"d"  # `d<event key>`: generation (day) of an applied event
ID_CHUNK = b"g"  # `g<generation><offset>`: keys that were stored and are deleted together
CLEANER = b"r"  # `r<key>`: an entry of the cleaner
OPERATOR = b"q"  # `q<name>:<key>`: the packed state of a sequence or join
OUTBOX = b"o"  # `o<event id>`: an action that is not known to be in the log yet
DEVICE = b"l"  # `l<device>`: the holders of a device over time
DEVICES_OF = b"h"  # `h<user>`: the devices of a user
CONSENT = b"n"  # `n<user>`: consent of a user to be linked to devices
HANDOVER = b"x"  # `x<number>`: an entry that has to be appended to another partition
RECEIVED = b"t"  # `t<transfer id>`: time at which a history from another partition was applied
CHANGED_APART = b"b"  # `b`: log offset at which entities were changed by other means than the log
ERASED = b"f"  # `f`: number of the last erasure that the state was purged by
PURGING = b"p"  # `p`: present while deleted data may still be in files
TOPIC = b"k"  # `k`: id of the Kafka topic of the state
PARTITIONS = b"y"  # `y`: number of partitions of that topic, by which users are routed
RESCALING = b"z"  # `z`: progress of a rescaling into this state; no engine opens it meanwhile
REBUILD = "compute the state again from the log: `tactful serve --rebuild` (rebuild=True)"

_T_co = TypeVar("_T_co", covariant=True)


class _Decoder(Protocol[_T_co]):
    def decode(self, buf: bytes, /) -> _T_co: ...


class Meta(msgspec.Struct, kw_only=True, frozen=True):
    """Head record of a state."""

    format: int  # version of this layout
    definitions: str  # the definitions, as ``features.yaml``
    fingerprint: str
    offset: int  # next offset of the log to apply
    newest: int  # newest event timestamp, epoch milliseconds
    watermark: int  # time up to which windows were emitted, epoch milliseconds
    items_version: int  # number of item upserts applied
    consumers: list[str]  # co-committed consumers with a snapshot
    missing: list[str]  # features whose state is still to be computed from the log
    ahead: list[int] = []  # times of the latest events in a row that event time did not follow


def read_meta(store: StateStore) -> Meta | None:
    """Return the head of the state in `store`, if any; StateError if it is damaged."""
    stored = store.get(META)
    if stored is None:
        if store.get(RESCALING) is not None:
            raise StateError(
                "a rescaling into this state is not finished: run it again, and it continues where "
                "it stopped"
            )
        return None
    try:
        version = msgspec.msgpack.decode(stored, type=_Version)
        if version.format == FORMAT:
            return msgspec.msgpack.decode(stored, type=Meta)
    except DECODE_ERRORS as error:
        raise StateError(f"the stored state cannot be read: {error}; {REBUILD}") from error
    newer = " of a newer version" if version.format > FORMAT else ""
    raise StateError(
        f"the stored state{newer} has format {version.format}, this version reads {FORMAT}; "
        + (f"update this program, or {REBUILD}" if newer else REBUILD)
    )


def unpacked(decoder: _Decoder[_T_co], blob: bytes, problem: str, remedy: str = "") -> _T_co:
    """Decode a stored value; StateError with `problem` and `remedy` if it is damaged."""
    try:
        return decoder.decode(blob)
    except (ValueError, *DECODE_ERRORS) as error:
        raise StateError(f"{problem}: {error}{remedy}") from error


def stored_entry(payload: bytes, kind: str) -> Entry:
    """Decode an entry of the log that is stored in a state as a `kind`."""
    try:
        return decode_entry(payload)
    except EntryError as error:
        raise StateError(f"a stored {kind} is damaged: {error}; {REBUILD}") from error


def named(store: StateStore, prefix: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the entries under a prefix: rest of the key, and value."""
    for key, blob in store.scan(prefix):
        yield key[len(prefix) :].decode(), blob


def write_meta(meta: Meta) -> tuple[bytes, bytes]:
    """Return the change that stores `meta`."""
    return META, msgspec.msgpack.encode(meta)


def entity_prefix(entity: str) -> bytes:
    """Return the key prefix of one kind of entity."""
    return ENTITY + entity.encode() + b":"


def operator_prefix(name: str) -> bytes:
    """Return the key prefix of one sequence or join."""
    return OPERATOR + name.encode() + b":"


class _Version(msgspec.Struct, frozen=True):
    format: int
