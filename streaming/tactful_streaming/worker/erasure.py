"""Erases people from what the owner of a partition keeps of it.

A log in Kafka cannot be rewritten, so its readers pass over who was erased, and forget what they
have counted of them. A state stores the number of the last erasure that it was purged by. Whoever
opens it, on whatever host and after whatever crash, first does the later ones: also a state that
lay about for months, and a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec

from tactful_streaming.contract.log_entries import (
    DEVICE_PREFIX,
    Entry,
    Event,
    Forwarded,
    Link,
    Restricted,
    Tick,
    Transfer,
    User,
    decode_entry,
)
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.erasure import (
    SubjectReferences,
    delete_subjects,
    find_references,
    find_subject_ids,
    names_subject,
)
from tactful_streaming.errors import EntryError, StateError
from tactful_streaming.log.dead_letters import DeadLetter
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.encrypted_log import Seal
from tactful_streaming.log.redaction import BLANK, redact
from tactful_streaming.patterns.match import Match
from tactful_streaming.state.key_layout import ERASED, PURGING
from tactful_streaming.state.store import RocksState, StateStore
from tactful_streaming.windows.triggers import WindowResult


class Erasures(Protocol):
    """Who was erased, as the owners of partitions are told; for many threads."""

    @property
    def suppressed(self) -> Container[str]:
        """Keys of people of whom nothing counts any more. It grows, and is false while empty."""

    @property
    def newest(self) -> int:
        """Number of the last erasure; 0 if there was none."""

    def after(self, number: int) -> tuple[int, SubjectIds]:
        """Number of the last erasure, and what is known of those after `number` from the log.

        All of them are in :attr:`suppressed` when this returns.
        """

    def purged(self, partition: str, number: int) -> None:
        """Take note that a partition keeps nothing of the erasures up to `number`."""


def is_erased(entry: Entry, suppressed: Container[str]) -> bool:
    """Whether an entry names somebody who was erased."""
    return bool(suppressed) and any(name in suppressed for name in _names(entry))


def without_fired(fired: Sequence[WindowResult], suppressed: Container[str]) -> list[WindowResult]:
    """Rows of windows that ended, without those of people who were erased meanwhile."""
    if not suppressed:
        return list(fired)
    return [_kept(one, suppressed) if one.entity == "user" else one for one in fired]


def without_matches(matches: Sequence[Match], suppressed: Container[str]) -> list[Match]:
    """Matches, without those of people who were erased meanwhile."""
    if not suppressed:
        return list(matches)
    return [
        match
        for match in matches
        if not (match.subject in suppressed or (match.entity == "user" and match.key in suppressed))
    ]


def purged_number(store: StateStore) -> int:
    """Number of the last erasure that the state in `store` was purged by.

    Raises:
        StateError: if what stands there is no number.
    """
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
    """Remove from a state, and from the dead letters beside it, who was erased since.

    It may be done again, and is until :func:`note_purged` was called.

    Args:
        store: the state, which no engine uses.
        folder: where it lies, with its dead letters.
        definitions: what it is computed by.
        erasures: who was erased.
        seal: opens dead letters that are sealed.

    Returns:
        The number to be noted, and what was removed.

    Raises:
        StateError: if the disk refused.
        LogError: if the dead letters cannot be rewritten.
    """
    number, known = erasures.after(purged_number(store))
    traces = known | find_subject_ids(store, erasures.suppressed, definitions)
    if traces != SubjectIds():
        killed = store.get(PURGING) is not None
        store.write([(PURGING, b"")])
        references = find_references(store, traces, definitions)
        if (
            delete_subjects(store, traces, definitions, {}, references=references)
            or references != SubjectReferences()
            or killed
        ):
            store.purge()
        store.write([(PURGING, None)])
        _blank_letters(folder / "dead-letters", traces, seal)
    return number, traces


def note_purged(store: StateStore, number: int) -> None:
    """Note that nothing of the erasures up to `number` is left."""
    store.write([(ERASED, b"%d" % number)])


def _names(entry: Entry) -> Iterator[str]:
    """Keys of the people whom an entry names."""
    if isinstance(entry, Event):
        if entry.user_id is not None:
            yield entry.user_id
        if entry.device_id is not None:
            yield DEVICE_PREFIX + entry.device_id
    elif isinstance(entry, Restricted):
        yield from _names(entry.event)
    elif isinstance(entry, Forwarded):
        yield entry.target
        yield from _names(entry.event)
    elif isinstance(entry, User):
        yield entry.user_id
    elif isinstance(entry, Link):
        yield DEVICE_PREFIX + entry.device_id
        if entry.user_id is not None:
            yield entry.user_id
    elif isinstance(entry, Transfer):
        yield entry.target
        yield entry.source


def _kept(fired: WindowResult, suppressed: Container[str]) -> WindowResult:
    places = [place for place, key in enumerate(fired.keys) if key not in suppressed]
    if len(places) == len(fired.keys):
        return fired
    groups = fired.groups
    return replace(
        fired,
        keys=[fired.keys[place] for place in places],
        groups=None if groups is None else [groups[place] for place in places],
        values=[fired.values[place] for place in places],
    )


def _blank_letters(path: Path, traces: SubjectIds, seal: Seal | None) -> None:
    if not path.is_dir():
        return
    EmbeddedLog(path).close()  # cuts off the torn tail of a crash
    names = traces.users | traces.devices | traces.event_ids
    needles = {name.encode() for name in names}
    needles |= {msgspec.json.encode(name)[1:-1] for name in names}
    # Nothing tells whose a sealed one is from outside, so all of them are opened.
    redact(path, needles if seal is None else {b""}, _blanked(traces, needles, seal))


def _blanked(
    traces: SubjectIds, needles: set[bytes], seal: Seal | None
) -> Callable[[int, bytes], bytes | None]:
    def blank(_: int, record: bytes) -> bytes | None:
        try:
            letter = msgspec.msgpack.decode(record, type=DeadLetter)
        except msgspec.MsgspecError:
            return None
        (payload,) = [letter.payload] if seal is None else seal.open([letter.payload])
        try:
            entry = decode_entry(payload)
            # One whose key was deleted already reads as a tick, and cannot be told from others'.
            gone = isinstance(entry, Tick) and payload != letter.payload
            if not gone and not names_subject(entry, traces):
                return None
        except EntryError:
            if not any(needle in payload for needle in needles):
                return None
        letter = msgspec.structs.replace(letter, payload=BLANK, reason="erased")
        return msgspec.msgpack.encode(letter)

    return blank
