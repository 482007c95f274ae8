"""Search for short ids and for texts of erased users.

Bytes alone cannot tell the user "42" from a number, or her search for "tea" from another's.

- A short id, or one that records of others contain, is looked for where the stores keep people:
  by the decoded records of log, dead letters and webhooks, and by what another erasure would change
  in the state. So no number is taken for it.
- A text is looked for as a whole: a token of a decoded value, or a word of six bytes or more in a
  file. It counts if nobody else has it: no record that stays in the log, no description of an item,
  and no entry that the state keeps for another user.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from tactful.config.settings import Settings
from tactful.erasure.offline_stores import open_search, snapshots_without
from tactful.subjects.export import LETTERS, actions_in, letters_in, records_in
from tactful.subjects.trace_search import SearchResult, needles_of, texts_of
from tactful.util.clock import now_ms
from tactful.util.multi_substring import SHORTEST, MultiSubstring
from tactful_privacy.counting.snapshot_seal import TAG
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.log_entries import decode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.erasure import holds_subjects
from tactful_streaming.errors import StreamingError
from tactful_streaming.state import key_layout as layout
from tactful_streaming.state.store import open_beside

SHORTEST_TEXT = 3
"""Texts of fewer bytes are not searched for."""

_BLOCK = 1 << 22
_LOGS = ("log", "spool", *LETTERS)
STORES = (*_LOGS, "state", "webhooks")
"""Stores in which users are found by their decoded records."""
# Entries of the state under the id of their user, event, or item: a text in them is theirs.
_OF_OTHERS = (
    *(layout.META, layout.OWNER, layout.ITEM, layout.VERSIONS, layout.USER, layout.EVENT_ID),
    *(layout.ID_CHUNK, layout.CLEANER, layout.OUTBOX, layout.DEVICE, layout.DEVICES_OF),
    *(layout.CONSENT, layout.HANDOVER, layout.RECEIVED, layout.TOPIC),
    *(layout.entity_prefix("user"), layout.entity_prefix("session")),
)


def ids_of_others(settings: Settings, results: Collection[SearchResult]) -> set[str]:
    """Return the ids of six bytes or more that records of others in the log contain, too.

    Such an id may be the beginning of another one, a text, or an event id of two senders.
    """
    ids = {name for result in results for name in result.ids}
    forms = {form: name for name in ids for form in needles_of([name]) if len(form) >= SHORTEST}
    words, held = MultiSubstring(forms), set[str]()
    with open_search(settings) as search:
        for offset, payload in search(frozenset(forms)):
            with contextlib.suppress(StreamingError):
                entry = decode_entry(payload)
                if not any(result.owns(offset, entry) for result in results):
                    held |= {forms[word] for word in words.find_in(payload)}
    return held


def short_ids_left(
    settings: Settings, results: Iterable[SearchResult], shared: Collection[str] = ()
) -> set[str]:
    """Return the stores that still hold users with a short id or one of the `shared` ids."""
    data, left = settings.storage.data, set[str]()
    for result in results:
        if all(len(name.encode()) >= SHORTEST and name not in shared for name in result.ids):
            continue
        if settings.log.in_files:
            with open_search(settings) as search:
                left |= {"log" for _ in records_in(search, result)}
        for name in LETTERS:
            left |= {name for _ in letters_in(settings, name, result, now_ms)}
        left |= {"webhooks" for _ in actions_in(data / "webhooks", result)}
        if not (state := data / "state").is_dir():
            continue
        own = replace(result.traces, shared=frozenset())  # others may use these devices again
        definitions = load_definitions(settings.features)
        with contextlib.closing(open_beside(state)) as store:
            if holds_subjects(store, own, definitions, snapshots_without(settings, result)):
                left.add("state")
    return left


def texts_left(
    settings: Settings, results: Collection[SearchResult], files: Iterable[Path]
) -> set[str]:
    """Return the stores and files with a text that only erased users had.

    `files` are those of the installation, in the data directory and elsewhere.
    """
    texts = _Texts(text for result in results for text in result.texts)
    if not texts.forms:
        return set()
    data, found, others = settings.storage.data, defaultdict[str, set[str]](set), set[str]()
    for path in files:
        inside = path.is_relative_to(data)
        name = str(path.relative_to(data) if inside else path)
        if inside and Path(name).parts[0] in _LOGS:
            continue  # each record is of somebody: ids are looked for in it
        with contextlib.suppress(FileNotFoundError):  # moved by a compaction, and read there
            found[name] |= texts.in_file(path)
        if path.name != "CURRENT":
            continue
        with contextlib.closing(open_beside(path.parent)) as store:
            for key, texts_of_pair in texts.in_pairs(store.scan(b"")):
                if name == "state/CURRENT" and key.startswith(_OF_OTHERS):
                    others |= texts_of_pair
                else:
                    found[str(Path(name).parent)] |= texts_of_pair
    candidates = set().union(*found.values()) - others
    if candidates:
        candidates -= _texts_of_others(settings, results, candidates)
    return {name for name, held in found.items() if held & candidates}


def _texts_of_others(
    settings: Settings, results: Collection[SearchResult], texts: set[str]
) -> set[str]:
    """Return the texts that records of others in the log have."""
    held: set[str] = set()
    with open_search(settings) as search:
        for offset, payload in search(needles_of(texts)):
            with contextlib.suppress(StreamingError):
                entry = decode_entry(payload)
                if not any(result.owns(offset, entry) for result in results):
                    held |= texts.intersection(texts_of(entry))
            if held == texts:
                break
    return held


class _Texts:
    """Texts by their encodings, prepared for searches."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Prepare the search for texts of at least `SHORTEST_TEXT` bytes."""
        self.forms = {
            form: text
            for text in texts
            if len(text.encode()) >= SHORTEST_TEXT
            for form in needles_of([text])
        }
        self._words = MultiSubstring(form for form in self.forms if len(form) >= SHORTEST)
        short = [re.escape(form) for form in self.forms if len(form) < SHORTEST]
        self._short = re.compile(b"|".join(short)) if short else None

    def in_file(self, path: Path) -> set[str]:
        """Return the texts that are words in a file."""
        if not path.is_file():
            return set()
        return {self.forms[word] for word in self._words.find_in_file(path, whole=True)}

    def in_pairs(self, pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, set[str]]]:
        """Yield the keys of pairs that have texts as tokens, and these."""
        block: list[tuple[bytes, bytes]] = []
        size = 0
        for pair in pairs:
            block.append(pair)
            size += len(pair[0]) + len(pair[1])
            if size >= _BLOCK:
                yield from self._in_block(block)
                block, size = [], 0
        yield from self._in_block(block)

    def _in_block(self, block: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, set[str]]]:
        if not self._may_occur(b"\0".join(part for pair in block for part in pair)):
            return
        for key, value in block:
            if self._may_occur(key + b"\0" + value):
                tokens = {*re.split(rb"[:\x1f\0]", key[1:]), *_tokens(value)}
                if held := {text for form, text in self.forms.items() if form in tokens}:
                    yield key, held

    def _may_occur(self, content: bytes) -> bool:
        if self._short is not None and self._short.search(content):
            return True
        return self._words.occur_in(content)


def _tokens(value: bytes) -> Iterator[bytes]:
    """Yield the texts and bytes in a value of MessagePack or JSON, also behind a tag or within."""
    for start in (0, TAG):
        for decode in (msgspec.msgpack.decode, msgspec.json.decode):
            with contextlib.suppress(ValueError, *DECODE_ERRORS):
                yield from _leaves(decode(value[start:]))


def _leaves(value: Any) -> Iterator[bytes]:
    if isinstance(value, str):
        yield value.encode()
    elif isinstance(value, bytes):
        yield value
        if len(value) > SHORTEST_TEXT:
            yield from _tokens(value)
    elif isinstance(value, list):
        for element in value:
            yield from _leaves(element)
    elif isinstance(value, dict):
        for key, element in value.items():
            yield from _leaves(key)
            yield from _leaves(element)
