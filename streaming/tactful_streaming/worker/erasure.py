"""Erasure of users from the state, the copy and the dead letters of a partition.

A log in Kafka cannot be rewritten, so its readers skip the records of erased users and delete what
they have counted of them. A state stores the number of the last erasure that it was purged by. Each
opening first applies the later ones, on any host and after any crash: also to a state that was
unused for months, and to a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.log_entries import Entry, Tick, decode_entry, named_keys
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine import erasure as state_erasure
from tactful_streaming.errors import EntryError, StateError
from tactful_streaming.log.dead_letters import DeadLetter
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.encrypted_log import Seal
from tactful_streaming.log.redaction import redact
from tactful_streaming.log.segment import BLANK
from tactful_streaming.patterns.match import Match
from tactful_streaming.state.key_layout import ERASED, PURGING
from tactful_streaming.state.store import RocksState, StateStore
from tactful_streaming.windows.triggers import WindowResult


class Erasures(Protocol):
    """Erased users, for the owners of partitions; used by many threads."""

    @property
    def suppressed(self) -> Container[str]:
        """Keys of users whose events do not count; it grows, and is false while empty."""

    @property
    def newest(self) -> int:
        """Number of the last erasure; 0 if there was none."""

    def after(self, number: int) -> tuple[int, SubjectIds]:
        """Return the number of the last erasure, and the ids of those after `number`.

        The ids are from the log; their users are in :attr:`suppressed` when this returns.
        """

    def purged(self, partition: str, number: int) -> None:
        """Record that a partition was purged by the erasures up to `number`."""


def is_erased(entry: Entry, suppressed: Container[str]) -> bool:
    """Whether an entry names an erased user."""
    return bool(suppressed) and any(key in suppressed for key in named_keys(entry))


def drop_erased_results(
    results: Sequence[WindowResult], suppressed: Container[str]
) -> list[WindowResult]:
    """Return window results without the rows of users who were erased meanwhile."""
    if not suppressed:
        return list(results)
    return [_kept(result, suppressed) if result.entity == "user" else result for result in results]


def drop_erased_matches(matches: Sequence[Match], suppressed: Container[str]) -> list[Match]:
    """Return matches without those of users who were erased meanwhile."""
    if not suppressed:
        return list(matches)
    return [
        match
        for match in matches
        if not (match.subject in suppressed or (match.entity == "user" and match.key in suppressed))
    ]


def purged_number(store: StateStore) -> int:
    """Return the number of the last erasure that the state in `store` was purged by."""
    stored = store.get(ERASED)
    try:
        return 0 if stored is None else int(stored)
    except ValueError as error:
        raise StateError("the stored number of the last erasure is damaged") from error


def purge_partition(
    store: RocksState,
    folder: Path,
    definitions: Definitions,
    erasures: Erasures,
    seal: Seal | None = None,
) -> tuple[int, SubjectIds]:
    """Delete later erased users from a state and from the dead letters beside it.

    No engine uses the state. The result is the number for :func:`note_purged`, and the deleted ids;
    until it is noted, this is repeated.
    """
    number, known = erasures.after(purged_number(store))
    subjects = known | state_erasure.find_subject_ids(store, erasures.suppressed, definitions)
    if subjects != SubjectIds():
        killed = store.get(PURGING) is not None
        store.write([(PURGING, b"")])
        references = state_erasure.find_references(store, subjects, definitions)
        if (
            state_erasure.delete_subjects(store, subjects, definitions, {}, references=references)
            or references != state_erasure.SubjectReferences()
            or killed
        ):
            store.purge()
        store.write([(PURGING, None)])
        _blank_letters(folder / "dead-letters", subjects, seal)
    return number, subjects


def note_purged(store: StateStore, number: int) -> None:
    """Store that the state was purged by the erasures up to `number`."""
    store.write([(ERASED, b"%d" % number)])


def _kept(result: WindowResult, suppressed: Container[str]) -> WindowResult:
    places = [place for place, key in enumerate(result.keys) if key not in suppressed]
    if len(places) == len(result.keys):
        return result
    groups = result.groups
    return replace(
        result,
        keys=[result.keys[place] for place in places],
        groups=None if groups is None else [groups[place] for place in places],
        values=[result.values[place] for place in places],
    )


def _blank_letters(path: Path, subjects: SubjectIds, seal: Seal | None) -> None:
    if not path.is_dir():
        return
    EmbeddedLog(path).close()  # cuts off the torn tail of a crash
    names = subjects.users | subjects.devices | subjects.event_ids
    needles = {name.encode() for name in names}
    needles |= {msgspec.json.encode(name)[1:-1] for name in names}
    # The owner of a sealed letter is not visible from outside, so all of them are opened.
    redact(path, needles if seal is None else {b""}, _blanked(subjects, needles, seal))


def _blanked(
    subjects: SubjectIds, needles: set[bytes], seal: Seal | None
) -> Callable[[int, bytes], bytes | None]:
    def blank(_: int, record: bytes) -> bytes | None:
        try:
            letter = msgspec.msgpack.decode(record, type=DeadLetter)
        except DECODE_ERRORS:
            return None
        (payload,) = [letter.payload] if seal is None else seal.open([letter.payload])
        try:
            entry = decode_entry(payload)
            # A letter whose key was deleted reads as a tick: its owner cannot be known any more.
            gone = isinstance(entry, Tick) and payload != letter.payload
            if not gone and not state_erasure.names_subject(entry, subjects):
                return None
        except EntryError:
            if not any(needle in payload for needle in needles):
                return None
        letter = msgspec.structs.replace(letter, payload=BLANK, reason="erased")
        return msgspec.msgpack.encode(letter)

    return blank
