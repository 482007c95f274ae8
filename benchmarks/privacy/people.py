"""An installation of a million people, made in minutes: a log, its state and its metadata.

Encoding a hundred million events one by one and feeding them to an engine takes an hour. Here an
engine is fed the events of a few, the models; all others do what one of the models does at the same
moment, on the same things, under names of the same width. So their events are bytes of the model's
with another number in them, and so are the rows of the state. Only counts of items, of which there
are few, are of the models alone. :func:`check` compares, row by row, with an engine that was fed
every event.
"""

import contextlib
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import msgspec

from tactful.config.settings import Settings
from tactful.metadata.connections import open_installation
from tactful_streaming.contract.log_entries import Event, Item, User, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.key_layout import EVENT_ID, ID_CHUNK, OWNER
from tactful_streaming.state.store import RocksState

EVENTS = 100
"""How many events there are of everybody."""

_ITEMS = 2_000
_VISITS = 10
_DAYS_BETWEEN = 3
_MINUTES_BETWEEN = 2
_DAY_MS, _MINUTE_MS = 86_400_000, 60_000
_PIECE = 50_000
_NAMES = 3
_NUMBER = re.compile(rb"(?<=[use]-)\d{8}")
_FIELDS = ("user", "device", "session", "event", "recommendation", "page", "query", "email")
_ids = msgspec.msgpack.Decoder(list[str])


@dataclass(frozen=True)
class Population:
    """Who there is.

    Attributes:
        models: how many people the engine is fed.
        copies: how many do the same, each model among them.
        erased: what all texts of each of those begin with who will be erased; it occurs nowhere
            else.
        end: when the newest event happened, epoch milliseconds.
    """

    models: int
    copies: int
    erased: Sequence[str] = field(
        default_factory=lambda: [f"zq{uuid.uuid4().hex}" for _ in range(2)]
    )
    end: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    @property
    def size(self) -> int:
        """How many people there are."""
        return self.models * self.copies + len(self.erased)


def texts_of(mark: str) -> dict[str, str]:
    """Everything that is known of somebody who will be erased, by field."""
    return {name: f"{mark}-{name}" for name in _FIELDS}


def build(settings: Settings, people: Population) -> None:
    """Write the log, the state and the metadata of `people` into a new directory of data."""
    data = settings.storage.data
    with EmbeddedLog(data / "log", durability="process") as log:
        log.append(_described(people))
        for turn in range(EVENTS):
            events = _of_all(people, turn)
            while batch := list(islice(events, _PIECE)):
                log.append(batch)
        with contextlib.closing(_engine(settings, data / "state")) as engine:
            _feed(engine, people, people.copies)
            assert engine.offset == log.end, "the engine has not reached the end of the log"
    with contextlib.closing(RocksState(data / "state")) as store:
        _copy_rows(store, people.copies)
        store.purge()
    open_installation(settings).close()


def check(settings: Settings, directory: Path) -> int:
    """Compare copied rows with those of an engine that was fed the events of everybody.

    Args:
        settings: by which features are computed.
        directory: a new directory for both states.

    Returns:
        How many rows were alike.

    Raises:
        AssertionError: if any is not.
    """
    people = Population(models=20, copies=3)
    states = []
    for name, step in (("copied", people.copies), ("fed", 1)):
        with contextlib.closing(_engine(settings, directory / name)) as engine:
            _feed(engine, people, step)
        with contextlib.closing(RocksState(directory / name)) as store:
            if step > 1:
                _copy_rows(store, people.copies)
            states.append(_rows(store))
    copied, fed = states
    assert copied == fed, "copied rows differ from those of an engine that was fed everything"
    return len(fed)


def _rows(store: RocksState) -> dict[bytes, bytes | frozenset[str]]:
    """What a state holds of people; ids that are forgotten together as the set of them by day."""
    rows: dict[bytes, bytes | frozenset[str]] = {}
    for key, value in store.scan(b""):
        if key.startswith(ID_CHUNK):
            day = key[: len(ID_CHUNK) + 4]
            before = rows.get(day, frozenset())
            assert isinstance(before, frozenset)
            rows[day] = before | frozenset(_ids.decode(value))
        elif _NUMBER.search(key) or key.startswith((EVENT_ID, OWNER)):
            rows[key] = value
    return rows


def _engine(settings: Settings, state: Path) -> Engine:
    return Engine(
        load_definitions(settings.features), RocksState(state), EngineOptions(memory_bytes=1 << 30)
    )


def _feed(engine: Engine, people: Population, step: int) -> None:
    """Apply the events of every `step`-th of the people, at their offsets in the log."""
    described = _described(people)
    engine.apply(list(enumerate(described)))
    offset = len(described)
    for turn in range(EVENTS):
        records = [
            (offset + person, payload)
            for model in range(people.models)
            for person in range(model * people.copies, (model + 1) * people.copies, step)
            for payload in [_encoded(people, turn, model, person)]
        ]
        offset += people.models * people.copies
        records += enumerate(_of_erased(people, turn), offset)
        offset += len(people.erased)
        engine.apply(records)
        if turn % _VISITS == _VISITS - 1:
            engine.commit()


def _copy_rows(store: RocksState, copies: int) -> None:
    """Give everybody the rows of their model."""
    rows: list[tuple[bytes, bytes, bytes]] = []
    chunks: list[tuple[bytes, list[str]]] = []
    for key, value in store.scan(b""):
        if key.startswith(ID_CHUNK):
            ids = [name for name in _ids.decode(value) if _NUMBER.search(name.encode())]
            chunks.append((key, ids))
        elif found := _NUMBER.search(key):
            rows.append((found.group(), key, value))
    for copy in range(1, copies):
        changed = {model: b"%08d" % (int(model) + copy) for model in {row[0] for row in rows}}
        changes = [
            (key.replace(model, name), value.replace(model, name))
            for model, key, value in rows
            for name in [changed[model]]
        ]
        for key, ids in chunks:
            # Chunks are named by offsets of the log, which lie further apart than there are copies.
            named = key[:-8] + (int.from_bytes(key[-8:], "big") + copy).to_bytes(8, "big")
            theirs = [f"{name[:2]}{int(name[2:10]) + copy:08d}{name[10:]}" for name in ids]
            changes.append((named, msgspec.msgpack.encode(theirs)))
        store.write(changes)


def _described(people: Population) -> list[bytes]:
    """What precedes all events: the items, and the people of whom something is told."""
    before = _at(people, 0, 0)
    items = [
        Item(item_id=f"i-{n:04d}", timestamp=before, category=f"c-{n % 50}", price=float(n % 90))
        for n in range(_ITEMS)
    ]
    told = [
        User(user_id=texts["user"], timestamp=before, properties={"email": texts["email"]})
        for texts in map(texts_of, people.erased)
    ]
    return [*map(encode_entry, items), *map(encode_entry, told)]


def _of_all(people: Population, turn: int) -> Iterator[bytes]:
    """Everybody's event of a turn: people take turns, so theirs lie all over the log."""
    for model in range(people.models):
        first = model * people.copies
        encoded = _encoded(people, turn, model, first)
        template = encoded.replace(b"%", b"%%").replace(b"%08d" % first, b"%08d")
        assert encoded.count(b"%08d" % first) == _NAMES, "a number occurs elsewhere by accident"
        yield from [
            template % ((person,) * _NAMES) for person in range(first, first + people.copies)
        ]
    yield from _of_erased(people, turn)


def _encoded(people: Population, turn: int, model: int, person: int) -> bytes:
    """An event of somebody as the server writes it."""
    return encode_entry(
        Event(
            event_id=f"e-{person:08d}-{turn:02d}",
            type=("view", "view", "add_to_cart", "view", "purchase")[turn % 5],
            timestamp=_at(people, turn, model / people.models),
            user_id=f"u-{person:08d}",
            session_id=f"s-{person:08d}-{turn // _VISITS:02d}",
            item_id=f"i-{(model * 31 + turn * 17) % _ITEMS:04d}",
        )
    )


def _of_erased(people: Population, turn: int) -> list[bytes]:
    return [
        encode_entry(
            Event(
                event_id=f"{texts['event']}-{turn}",
                type=("x.login", "view", "search")[turn % 3],
                timestamp=_at(people, turn, 1),
                user_id=None if turn % 5 == 1 else texts["user"],
                device_id=texts["device"],
                session_id=texts["session"],
                item_id=f"i-{turn:04d}",
                recommendation_id=texts["recommendation"],
                properties={"query": texts["query"]},
                context={"page": texts["page"]},
            )
        )
        for texts in map(texts_of, people.erased)
    ]


def _at(people: Population, turn: int, within: float) -> int:
    """When the events of a turn happened: visits of some minutes, days apart."""
    visit, number = divmod(turn, _VISITS)
    before = (EVENTS // _VISITS - 1 - visit) * _DAYS_BETWEEN * _DAY_MS
    before += (_VISITS - number) * _MINUTES_BETWEEN * _MINUTE_MS
    return people.end - before + int(within * _MINUTES_BETWEEN * _MINUTE_MS)
