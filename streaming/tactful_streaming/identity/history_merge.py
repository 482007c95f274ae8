"""The history of one person or device, as a whole: features, sequences and joins move together."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tactful_streaming.errors import StateError
from tactful_streaming.patterns.match import Operator
from tactful_streaming.windows.entity_table import EntityTable


class _Packed(msgspec.Struct, array_like=True):
    fingerprint: str
    features: bytes | None
    operators: dict[str, bytes]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Packed)


class Histories:
    """Moves what is known of one key of the entity ``user`` to another key."""

    def __init__(
        self, table: EntityTable | None, operators: Sequence[Operator], fingerprint: str
    ) -> None:
        """Move what is in `table` and those of `operators` that describe users.

        Args:
            table: features of users; None if there are none.
            operators: sequences and joins.
            fingerprint: of the definitions. Beginnings of sequences are of use only where the
                definitions are the same.
        """
        self._table = table
        self._operators = [operator for operator in operators if operator.entity == "user"]
        self._fingerprint = fingerprint

    def may_hold(self, key: str) -> bool:
        """Whether anything may be known of `key`; where sequences or joins might, they do."""
        return bool(self._operators) or (self._table is not None and self._table.holds(key))

    def merge(self, source: str, target: str) -> None:
        """Let the history of `source` be part of that of `target`."""
        if self._table is not None:
            self._table.merge(source, target)
        for operator in self._operators:
            operator.merge(source, target)

    def detach(self, key: str) -> bytes | None:
        """Remove the history of `key` and give it packed; None if there is none."""
        features = self._table.detach(key) if self._table is not None else None
        detached = {operator.name: operator.detach(key) for operator in self._operators}
        operators = {name: blob for name, blob in detached.items() if blob is not None}
        if features is None and not operators:
            return None
        return _encoder.encode(_Packed(self._fingerprint, features, operators))

    def check(self, packed: bytes) -> None:
        """Make sure that :meth:`attach` can take `packed`.

        Raises:
            StateError: if it is no packed history.
        """
        history = _decode(packed)
        if self._table is not None and history.features is not None:
            EntityTable(self._table.features, capacity=2).unpack([("", history.features)])

    def attach(self, key: str, packed: bytes) -> None:
        """Put a history under `key`, of which nothing is known.

        Features that the sender did not have begin empty here; sequences and joins are passed over
        if its definitions were others.
        """
        history = _decode(packed)
        if self._table is not None and history.features is not None:
            self._table.unpack([(key, history.features)])
        if history.fingerprint == self._fingerprint:
            for operator in self._operators:
                if operator.name in history.operators:
                    operator.unpack(key, history.operators[operator.name])


def _decode(packed: bytes) -> _Packed:
    try:
        return _decoder.decode(packed)
    except msgspec.MsgspecError as error:
        raise StateError(f"the history of a device is damaged: {error}") from error
