"""How the engine lays out its state in the store: key prefixes and the record that heads it."""

from __future__ import annotations

import msgspec

from tactful_streaming.errors import StateError
from tactful_streaming.state.store import StateStore

FORMAT = 2
META = b"meta"
ENTITY = b"e"
"""``e<entity>:<key>``: the packed state of an entity."""
OWNER = b"s"
"""``s<session>``: key of the person whose session it is, so that both move together."""
ITEM = b"i"
"""``i<item>``: the newest description of an item."""
VERSIONS = b"v"
"""``v<item>``: the last descriptions of an item, where features ask what held at a time."""
USER = b"u"
"""``u<user>``: the newest description of a user."""
CONSUMER = b"c"
"""``c<name>``: the snapshot of a passenger."""
EVENT_ID = b"d"
"""``d<event id>``: when an event that was applied will be forgotten."""
ID_CHUNK = b"g"
"""``g<generation><offset>``: ids that were remembered together and are forgotten together."""
CLEANER = b"r"
"""``r<key>``: what the cleaner remembers."""
OPERATOR = b"q"
"""``q<name>:<key>``: the packed state of a sequence or join."""
OUTBOX = b"o"
"""``o<event id>``: an action that is not known to be in the log yet."""
DEVICE = b"l"
"""``l<device>``: who held a device when."""
DEVICES_OF = b"h"
"""``h<user>``: the devices of a user."""
CONSENT = b"n"
"""``n<user>``: whether a user agrees that devices are linked to them, where they said."""
HANDOVER = b"x"
"""``x<number>``: an entry that has to be appended to another partition."""
RECEIVED = b"t"
"""``t<transfer id>``: a history that came from another partition, and when."""
CHANGED_APART = b"b"
"""``b``: the log offset at which entities were changed by other means than the log."""
ERASED = b"f"
"""``f``: number of the last erasure that the state was purged by."""
PURGING = b"p"
"""``p``: there while something may be deleted and still in files."""
TOPIC = b"k"
"""``k``: id of the Kafka topic that the state is of."""

RESCALING = b"z"
"""``z``: how far the states of other partitions were moved here; no engine may open it before."""

CURE = "rebuild the state by replay from the log (rebuild=True)"


class Meta(msgspec.Struct, kw_only=True, frozen=True):
    """What the state as a whole is.

    Attributes:
        format: version of this layout.
        definitions: what is computed, as ``features.yaml``.
        fingerprint: of these definitions.
        offset: next offset of the log to apply.
        newest: newest event timestamp, epoch milliseconds.
        watermark: how far windows have fired, epoch milliseconds.
        items_version: number of item upserts applied.
        consumers: passengers whose snapshots are here.
        missing: features whose state is still to be computed from the log.
    """

    format: int
    definitions: str
    fingerprint: str
    offset: int
    newest: int
    watermark: int
    items_version: int
    consumers: list[str]
    missing: list[str]


def read_meta(store: StateStore) -> Meta | None:
    """The head of the state in `store`; None if there is no state.

    Raises:
        StateError: if it is damaged or of another version.
    """
    stored = store.get(META)
    if stored is None:
        if store.get(RESCALING) is not None:
            raise StateError(
                "other partitions are being moved into this state, and not all of it is there: "
                "run the rescaling again, which goes on where it stopped"
            )
        return None
    try:
        version = msgspec.msgpack.decode(stored, type=_Version)
        if version.format == FORMAT:
            return msgspec.msgpack.decode(stored, type=Meta)
    except msgspec.MsgspecError as error:
        raise StateError(f"the stored state cannot be read: {error}; {CURE}") from error
    newer = " of a newer version" if version.format > FORMAT else ""
    raise StateError(
        f"the stored state{newer} has format {version.format}, this version reads {FORMAT}; "
        + (f"update this program, or {CURE}" if newer else CURE)
    )


def write_meta(meta: Meta) -> tuple[bytes, bytes]:
    """The change that stores `meta`."""
    return META, msgspec.msgpack.encode(meta)


def entity_prefix(entity: str) -> bytes:
    """What the store keys of one kind of entity begin with."""
    return ENTITY + entity.encode() + b":"


def operator_prefix(name: str) -> bytes:
    """What the store keys of one sequence or join begin with."""
    return OPERATOR + name.encode() + b":"


class _Version(msgspec.Struct, frozen=True):
    format: int
