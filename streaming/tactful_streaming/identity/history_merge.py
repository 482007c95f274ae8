"""Merging of histories: features, sequences and joins of a user or device."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tactful_streaming.patterns.match import Operator
from tactful_streaming.state.key_layout import unpacked
from tactful_streaming.windows.entity_table import EntityTable


class _Packed(msgspec.Struct, array_like=True):
    fingerprint: str
    features: bytes | None
    operators: dict[str, bytes]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Packed)


class ProfileMerger:
    """Moves the history of one key of the entity ``user`` to another key.

    A packed history: ``[fingerprint, features, {"sequence name": partial matches}]``.
    """

    def __init__(
        self, table: EntityTable | None, operators: Sequence[Operator], fingerprint: str
    ) -> None:
        """Move entries of `table`, if any, and of those of `operators` that describe users.

        `fingerprint` identifies the definitions: partial matches are dropped by an engine with
        others.
        """
        self._table = table
        self._operators = [operator for operator in operators if operator.entity == "user"]
        self._fingerprint = fingerprint

    def may_hold(self, key: str) -> bool:
        """Whether `key` may have a history; always true with sequences or joins."""
        return bool(self._operators) or (self._table is not None and self._table.holds(key))

    def merge(self, source: str, target: str) -> None:
        """Merge the history of `source` into that of `target`."""
        if self._table is not None:
            self._table.merge(source, target)
        for operator in self._operators:
            operator.merge(source, target)

    def detach(self, key: str) -> bytes | None:
        """Remove the history of `key` and return it packed; None if there is none."""
        features = self._table.detach(key) if self._table is not None else None
        detached = {operator.name: operator.detach(key) for operator in self._operators}
        operators = {name: blob for name, blob in detached.items() if blob is not None}
        if features is None and not operators:
            return None
        return _encoder.encode(_Packed(self._fingerprint, features, operators))

    def check(self, packed: bytes) -> None:
        """Check that :meth:`attach` accepts `packed`; StateError if it is no packed history."""
        history = unpacked(_decoder, packed, "the history of a device is damaged")
        if self._table is not None and history.features is not None:
            EntityTable(self._table.features, capacity=2).unpack([("", history.features)])

    def attach(self, key: str, packed: bytes) -> None:
        """Store a packed history under `key`, which has none.

        Features that the sender did not have begin empty; sequences and joins are skipped if its
        definitions were others.
        """
        history = unpacked(_decoder, packed, "the history of a device is damaged")
        if self._table is not None and history.features is not None:
            self._table.unpack([(key, history.features)])
        if history.fingerprint == self._fingerprint:
            for operator in self._operators:
                if operator.name in history.operators:
                    operator.unpack(key, history.operators[operator.name])
