"""The copy of one partition of a Flink job's entities in Redis.

The job publishes the packed value of an entity with the offset behind the last record of the log
that it has counted, and marks: how far each of its subtasks has come. All rows before a mark are
published before it, so the copy has *reached* the least of the last marks. A job that restarts
publishes again what it had published; such rows are older than what was reached, and left out.

Marks also say which erasures the job has applied: by the offset in the topic of the erased, so an
erasure is confirmed once the last marks of all subtasks are behind its rows there.

Redis holds a record of the progress with the values, so that a Redis that was emptied, or restored
from an older copy, says itself from where to read::

    tactful:3f1c…:user:ann     packed entity
    tactful:3f1c…:copied:2     how far partition 2 was copied (`Copied`)
    tactful:3f1c…:@:2          the offset of the log reached, for readers
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from typing import Any, Final

import msgspec

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.errors import OnlineStoreLostError, StateError, TopicError
from tactful_streaming.online.fenced_store import FencedRedisStore

_COPIED: Final = "copied"
_MOST_AHEAD: Final = 2_000
_decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(list[Any])


class Copied(msgspec.Struct, kw_only=True):
    """Progress of the copy of a partition; stored in Redis."""

    topic_id: str | None = None  # id of the entities' topic; None before Kafka 2.8
    log_id: str | None = None  # id of the log's topic
    offset: int = 0  # next offset of the entities' topic to read
    subtasks: int = 0  # number of the job's subtasks
    marks: dict[str, int] = {}  # last mark of each, by kind and subtask
    reached: int | None = None  # offset of the log up to which all values are copied
    purged: int = 0  # number of the last erasure that was applied here
    # Erasures that the job has not confirmed: by number, the offset behind their rows in the topic
    # of the erased.
    asked: dict[int, int] = {}
    forgotten: dict[str, int] = {}  # offset there that each subtask has confirmed

    def note(
        self, kind: str, subtask: int, subtasks: int, offset: int, *, forgotten: int = 0
    ) -> None:
        """Note a mark of a subtask; one of another number of subtasks is of a new run."""
        if subtasks != self.subtasks:
            self.marks, self.forgotten, self.subtasks = {}, {}, subtasks
        name = f"{kind}:{subtask}"
        self.marks[name] = offset
        self.forgotten[name] = max(self.forgotten.get(name, 0), forgotten)

    def advance(self, kinds: Collection[str]) -> None:
        """Update what is reached: it is known once every subtask of every kind has a mark."""
        if self.subtasks and len(self.marks) == self.subtasks * len(kinds):
            least = min(self.marks.values())
            # A job that restarted comes again from behind.
            self.reached = least if self.reached is None else max(self.reached, least)

    def confirm(self, kinds: Collection[str]) -> int | None:
        """Remove the erasures that the job has confirmed; return the number of the last one."""
        known = self.subtasks and len(self.forgotten) == self.subtasks * len(kinds)
        if not self.asked or not known:
            return None
        least = min(self.forgotten.values())
        confirmed = [number for number, offset in self.asked.items() if offset <= least]
        for number in confirmed:
            del self.asked[number]
        return max(confirmed, default=None)


class CopiedPartition:
    """The copy of a partition, written by its owner alone."""

    def __init__(
        self,
        number: int,
        store: FencedRedisStore,
        *,
        tag: str,
        kinds: Collection[str],
        topic_id: str | None,
        log_id: str | None,
    ) -> None:
        """Continue where the copy in `store`, closed with this object, ends.

        Args:
            number: the partition.
            store: owned by this process.
            tag: of the definitions whose rows are copied; others are left out.
            kinds: kinds of entity that the job publishes.
            topic_id: id of the entities' topic. A copy of another one begins anew.
            log_id: id of the log's topic.

        Raises:
            TopicError: if the entities were computed from a log that is gone.
        """
        self.number = number
        self.watermark = 0  # event time reached by the job, epoch milliseconds
        self.entries = 0  # rows copied
        self.invalid = 0  # rows that are none
        self._store = store
        self._tag = tag
        self._kinds = kinds
        self._key = str(number)
        (stored,) = store.get_many([self._key], kind=_COPIED)
        self.copied = _decoded(stored, number) if stored is not None else Copied()
        if stored is None or self.copied.topic_id != topic_id:
            self.copied = Copied(topic_id=topic_id, log_id=log_id)
        if self.copied.log_id != log_id:
            raise TopicError(
                "the log's topic was deleted and made anew since its entities were computed: name "
                "another flink.entities_topic, and submit the job with it"
            )
        self._marked = store.marked(number)
        # Offsets of the values that are newer than what is reached.
        self._ahead: dict[tuple[str, str], int] = {}

    @property
    def reached(self) -> int:
        """Offset of the log up to which all values are copied; 0 if that is not known yet."""
        return self.copied.reached or 0

    def apply(
        self, offsets: Sequence[int], rows: Sequence[bytes], suppressed: Container[str]
    ) -> int | None:
        """Copy rows of the entities' topic, without those of erased users.

        Returns:
            The number of the last erasure that the job has confirmed with them; None: no new one.
        """
        changes: dict[str, dict[str, bytes | None]] = {}
        for payload in rows:
            if payload:  # a tombstone repeats what the row before it says
                self._apply(payload, suppressed, changes)
        self.copied.offset = offsets[-1] + 1
        self.copied.advance(self._kinds)
        confirmed = self.copied.confirm(self._kinds)
        self._write(changes)
        self.entries += sum(map(len, changes.values()))
        if len(self._ahead) > _MOST_AHEAD:
            self._ahead = {k: at for k, at in self._ahead.items() if at > self.reached}
        return confirmed

    def purge(
        self, kinds: Mapping[str, Collection[str]], number: int, *, asked: int | None = None
    ) -> None:
        """Remove the values of erased users and sessions, by kind, up to an erasure.

        Args:
            kinds: keys of the erased by kind of entity.
            number: of the erasure.
            asked: offset behind its rows in the topic of the erased; None: it has none.
        """
        self.copied.purged = number
        if asked is not None:
            self.copied.asked[number] = asked
        self._write({kind: dict.fromkeys(keys) for kind, keys in kinds.items()})

    def check(self) -> None:
        """Raise OnlineStoreLostError if Redis has lost what was copied, also without new rows."""
        present = self._store.marked(self.number)
        if present != self._marked:
            raise OnlineStoreLostError(
                f"partition {self.number} is marked at {present} in Redis, not at {self._marked}: "
                "its values are copied again"
            )

    def is_fenced(self) -> bool:
        """Whether a write was refused for another owner, not for a Redis that lost its data."""
        return self._store.fenced and not self._store.is_emptied()

    def close(self) -> None:
        """Close the connection."""
        self._store.close()

    def _apply(
        self,
        payload: bytes,
        suppressed: Container[str],
        changes: dict[str, dict[str, bytes | None]],
    ) -> None:
        try:
            what, tag, offset, kind, *rest = _decoder.decode(payload)
            if tag != self._tag or kind not in self._kinds:
                return
            if what == 1:
                subtask, subtasks, watermark, forgotten = rest
                self.copied.note(kind, subtask, subtasks, offset, forgotten=forgotten)
                self.watermark = max(self.watermark, watermark)
                return
            key, packed = rest
        except (ValueError, TypeError, *DECODE_ERRORS):
            self.invalid += 1
            return
        if kind == "user" and suppressed and key in suppressed:
            packed = None
        elif offset >= 0 and self._is_older(kind, key, offset):
            return
        if offset > self.reached:
            self._ahead[kind, key] = offset
        changes.setdefault(kind, {})[key] = packed

    def _is_older(self, kind: str, key: str, offset: int) -> bool:
        """Whether the copy has a newer value, which a job that restarted will come to again."""
        reached = self.copied.reached
        if reached is not None and offset < reached:
            return True
        return self._ahead.get((kind, key), -1) > offset

    def _write(self, changes: dict[str, dict[str, bytes | None]]) -> None:
        """Write values, then how far the partition is copied, then the mark for readers."""
        record: dict[str, bytes | None] = {self._key: msgspec.json.encode(self.copied)}
        blobs = {**changes, _COPIED: record}
        reached = self.copied.reached
        if reached is None or reached == self._marked or self._marked is None:
            for kind, of_kind in blobs.items():
                self._store.put_many(of_kind, kind=kind)
            if reached is not None and reached != self._marked:
                self._store.mark(self.number, reached, previous=None)
        else:
            self._store.put_marked(blobs, self.number, reached, previous=self._marked)
        if reached is not None:
            self._marked = reached


def _decoded(stored: bytes, number: int) -> Copied:
    try:
        return msgspec.json.decode(stored, type=Copied)
    except DECODE_ERRORS as error:
        raise StateError(
            f"the record of partition {number} in Redis is damaged: something else writes there; "
            "choose another online.prefix"
        ) from error
