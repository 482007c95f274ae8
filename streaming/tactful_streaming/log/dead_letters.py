"""Dead letters: records that rules set aside, stored unchanged with the reason.

They are a log of their own. The engine adds them before it commits the offset of their records, so
none is lost in a crash; records that it then applies again are added again, and
:meth:`DeadLetters.read` skips such repetitions. If the log is encrypted, so are their payloads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.log_entries import Entry, decode_entry
from tactful_streaming.errors import EntryError, LogCorruptedError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.encrypted_log import Seal
from tactful_streaming.log.event_log import Durability, EventLog
from tactful_streaming.log.segment import BLANK

UNREADABLE: Final = "unreadable"
"""Name of the rule for a record that is no entry; reserved."""

_BATCH = 1000
_SEGMENT_BYTES = 1024 * 1024


class DeadLetter(msgspec.Struct, kw_only=True, frozen=True):
    """One record that was set aside."""

    payload: bytes  # the record in the log, unchanged by rules
    rule: str  # name of the rule, or :data:`UNREADABLE`
    reason: str  # explanation for operators; contains no data of the event
    partition: int  # its partition of the log
    offset: int  # its offset in the partition
    received: int | None = None  # its time of receipt, epoch milliseconds, if known

    def entry(self) -> Entry | None:
        """Decode the record; None if it is no entry."""
        try:
            return decode_entry(self.payload)
        except EntryError:
            return None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(DeadLetter)


class DeadLetters:
    """The dead letters in a log of their own; one process adds, any number read."""

    def __init__(self, log: EventLog, seal: Seal | None = None) -> None:
        """Store them in `log`, which is closed with this object; `seal` encrypts payloads."""
        self.log = log
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
        """Open the dead letters in directory `path`; `seal` encrypts payloads."""
        return cls(
            EmbeddedLog(
                path,
                # Retention drops whole segments, and letters are few, so segments are small.
                segment_bytes=_SEGMENT_BYTES,
                read_only=read_only,
                retention_ms=retention_ms,
                durability=durability,
            ),
            seal,
        )

    @property
    def end(self) -> int:
        """Position of the next letter."""
        return self.log.end

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """Store `letters`; durable on return.

        Raises:
            LogError: if the log refused or keys are not available; none is stored, and their
                offset must not be committed.
        """
        if letters:
            self.log.append([_encoder.encode(letter) for letter in self._sealed(letters)])

    def _sealed(self, letters: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
        if self._seal is None:
            return letters
        payloads = self._seal.seal([letter.payload for letter in letters])
        return [
            msgspec.structs.replace(letter, payload=payload)
            for letter, payload in zip(letters, payloads, strict=True)
        ]

    def read(
        self, start: int = 0, rules: Collection[str] | None = None
    ) -> Iterator[tuple[int, DeadLetter]]:
        """Iterate over letters from position `start`, oldest first, without repetitions.

        Payloads whose key was deleted are ticks that move no clock; without a seal, encrypted ones
        stay encrypted.
        """
        seen: set[tuple[int, int, str, bytes]] = set()
        position = max(start, self.log.begin)
        while records := self.log.read(position, _BATCH):
            for position, record in records:
                if record == BLANK:
                    continue  # takes the place of a lost one
                try:
                    letter = _decoder.decode(record)
                except DECODE_ERRORS as error:
                    raise LogCorruptedError(
                        f"dead letter {position} is damaged: {error}. Restore the log of dead "
                        "letters from a backup, or move it away"
                    ) from error
                if self._seal is not None:
                    (opened,) = self._seal.open([letter.payload])
                    letter = msgspec.structs.replace(letter, payload=opened)
                # If several partitions are read as one, the offset may repeat after a crash, so the
                # payload is compared; decrypted, as encryption differs each time.
                payload = hashlib.blake2b(letter.payload, digest_size=16).digest()
                identity = (letter.partition, letter.offset, letter.rule, payload)
                if identity not in seen and (rules is None or letter.rule in rules):
                    seen.add(identity)
                    yield position, letter
            position += 1

    def trim(self) -> None:
        """Delete whole segments that are older than the retention."""
        if isinstance(self.log, EmbeddedLog):
            self.log.trim(self.log.end)

    def close(self) -> None:
        """Close the log."""
        self.log.close()
