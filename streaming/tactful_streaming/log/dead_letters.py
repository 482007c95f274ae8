"""Dead letters: what rules set aside, kept as it came, with the reason, until it is sent again.

They are a log of their own. The engine adds them before it commits the offset they came from, so
none is lost in a crash; what it then applies again it adds again, and :meth:`DeadLetters.each`
leaves such repeats out. Where the log is sealed, so is what they hold of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tactful_streaming.contract.log_entries import Entry, decode_entry
from tactful_streaming.errors import EntryError, LogCorruptedError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.encrypted_log import Seal
from tactful_streaming.log.event_log import Durability, EventLog

UNREADABLE: Final = "unreadable"
"""Stands for the rule of a record that is no entry at all; no rule can be called so."""

_BATCH = 1000
_SEGMENT_BYTES = 1024 * 1024


class DeadLetter(msgspec.Struct, kw_only=True, frozen=True):
    """One record that was set aside.

    Attributes:
        payload: the record as it lies in the log, untouched by rules.
        rule: name of the rule, or :data:`UNREADABLE`.
        reason: why, for people; nothing of the event is in it.
        partition: partition of the log it came from.
        offset: its offset there.
        received: when the server received it, epoch milliseconds, where that is known.
    """

    payload: bytes
    rule: str
    reason: str
    partition: int
    offset: int
    received: int | None = None

    def entry(self) -> Entry | None:
        """What was set aside; None if it cannot be decoded."""
        try:
            return decode_entry(self.payload)
        except EntryError:
            return None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(DeadLetter)


class DeadLetters:
    """The dead letters in a log that holds nothing else; one process adds, any number read."""

    def __init__(self, log: EventLog, seal: Seal | None = None) -> None:
        """Keep them in `log`, which is closed with this, their payloads sealed by `seal`."""
        self._log = log
        self._seal = seal

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        read_only: bool = False,
        retention_ms: int | None = None,
        durability: Durability = "power",
        seal: Seal | None = None,
    ) -> DeadLetters:
        """Open the dead letters in directory `path`.

        Args:
            path: made if need be, unless `read_only`.
            read_only: read beside the process that adds.
            retention_ms: age at which :meth:`trim` may forget one; None: never.
            durability: what an added letter outlives.
            seal: seals payloads, and opens those that are sealed; it stays the caller's to close.
                None: they lie as they are.

        Raises:
            LogError: if the directory cannot be opened, or there is nothing to read.
        """
        return cls(
            EmbeddedLog(
                path,
                # Retention drops whole segments, and letters are few: small ones go in time.
                segment_bytes=_SEGMENT_BYTES,
                read_only=read_only,
                retention_ms=retention_ms,
                durability=durability,
            ),
            seal,
        )

    @property
    def begin(self) -> int:
        """Position of the oldest letter."""
        return self._log.begin

    @property
    def end(self) -> int:
        """Position the next letter will get."""
        return self._log.end

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """Keep `letters`; durable on return.

        Raises:
            LogError: if the log refused or there are no keys; none of them is kept, and their
                offset must not be committed.
        """
        if letters:
            self._log.append([_encoder.encode(letter) for letter in self._sealed(letters)])

    def _sealed(self, letters: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
        if self._seal is None:
            return letters
        payloads = self._seal.seal([letter.payload for letter in letters])
        return [
            msgspec.structs.replace(letter, payload=payload)
            for letter, payload in zip(letters, payloads, strict=True)
        ]

    def each(
        self, start: int = 0, rules: Collection[str] | None = None
    ) -> Iterator[tuple[int, DeadLetter]]:
        """The letters from position `start` on, oldest first, each once, with their positions.

        Those whose key is gone are ticks that move no clock; without a seal, sealed ones are not
        legible.

        Args:
            start: first position of interest; one that is forgotten counts as the oldest.
            rules: only letters of these rules.

        Raises:
            LogError: if there are no keys to be had.
            LogCorruptedError: if one is damaged.
        """
        seen: set[tuple[int, int, str, bytes]] = set()
        position = max(start, self._log.begin)
        while records := self._log.read(position, _BATCH):
            for position, record in records:
                try:
                    letter = _decoder.decode(record)
                except msgspec.MsgspecError as error:
                    raise LogCorruptedError(
                        f"dead letter {position} is damaged: {error}. Restore the log of dead "
                        "letters from a backup, or move it away"
                    ) from error
                if self._seal is not None:
                    (opened,) = self._seal.open([letter.payload])
                    letter = msgspec.structs.replace(letter, payload=opened)
                # Where several partitions are read as one, another record may have the number of
                # one that came before a crash. One that is sealed twice is the same when opened.
                payload = hashlib.blake2b(letter.payload, digest_size=16).digest()
                identity = (letter.partition, letter.offset, letter.rule, payload)
                if identity not in seen and (rules is None or letter.rule in rules):
                    seen.add(identity)
                    yield position, letter
            position += 1

    @property
    def log(self) -> EventLog:
        """The log that they are kept in."""
        return self._log

    def trim(self) -> None:
        """Forget what is older than the retention, as far as whole segments are."""
        if isinstance(self._log, EmbeddedLog):
            self._log.trim(self._log.end)

    def close(self) -> None:
        """Close the log."""
        self._log.close()
