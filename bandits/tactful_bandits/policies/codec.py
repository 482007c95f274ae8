"""Serialised policies: a version mark, a checksum, and the state as MessagePack."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from tactful_bandits.errors import PolicyError
from tactful_privacy.decoding import DECODE_ERRORS

_MARK = b"tactful-policy-1"
_State = TypeVar("_State", bound=msgspec.Struct)


def pack_policy(kind: type[msgspec.Struct], policy: object, **others: object) -> bytes:
    """Serialise a state whose fields are attributes of a policy, but for `others`."""
    own = {name: getattr(policy, name) for name in kind.__struct_fields__ if name not in others}
    return pack(kind(**own, **others))


def settings_of(source: object, names: Iterable[str]) -> dict[str, Any]:
    """Return the attributes of a state or a policy that make another policy alike."""
    return {name: getattr(source, name) for name in names}


def pack(state: msgspec.Struct) -> bytes:
    """Serialise a state."""
    body = msgspec.msgpack.encode(state)
    return _MARK + zlib.crc32(body).to_bytes(4, "big") + body


def unpack(data: bytes, kind: type[_State]) -> _State:
    """Deserialise a state; raise PolicyError for damaged or other bytes."""
    head = len(_MARK) + 4
    if data[: len(_MARK)] != _MARK:
        raise PolicyError("these bytes are no policy, or a policy of an unknown version")
    body = data[head:]
    if zlib.crc32(body).to_bytes(4, "big") != data[len(_MARK) : head]:
        raise PolicyError("the state of this policy is damaged: its checksum does not fit")
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except DECODE_ERRORS as error:
        raise PolicyError(f"these bytes are no state of such a policy: {error}") from error
