"""A small simulated shop with a planted structure, as a replay and as a log.

Its structure: every user takes a few items again and again; an item is followed by one certain
other item half of the time; users stay within two categories; a few items are taken by all users;
and no user takes an item twice in one visit.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tactful.config.settings import Settings
from tactful.demo.datasets import Ask, Replay
from tactful.ranking.model import read_manifest, version_directory
from tactful.recall.index import RecallIndex, build_index
from tactful.recall.tables import Interactions
from tactful.training.options import TrainingOptions
from tactful.training.train import train
from tactful_streaming.contract.log_entries import Entry, Event, Item, User, encode_entry
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.log.embedded_log import EmbeddedLog

BEGIN = 1_700_006_400_000  # a midnight
DAY = 86_400_000
HOUR = 3_600_000
MINUTE = 60_000
CATEGORIES = 8
SERVICE = "service-0"
"""An item that is taken often and may not be recommended."""

TRAINED = "TACTFUL_TEST_TRAINED"
"""Variable with the folder of models that all processes of a run of the tests share."""

KINDS = ("add_to_cart", "purchase", "return", "view")


@cache
def definitions() -> Definitions:
    """Return the packaged feature definitions."""
    return load_definitions(Settings().features)


def learned(count: int, **options: Any) -> RecallIndex:
    """Build a recall index from simulated visits to `count` items."""
    generator = np.random.default_rng(0)
    size = 900
    return build_index(
        [f"i{number:02d}" for number in range(count)],
        Interactions(
            np.sort(generator.integers(0, 200, size)),
            generator.integers(0, count, size),
            np.arange(size) * 60_000,
        ),
        dimensions=8,
        **options,
    )


def make_shop(
    seed: int = 0,
    *,
    people: int = 40,
    items: int = 160,
    days: int = 60,
    tied: bool = False,
    guests: bool = False,
) -> Replay:
    """Generate a shop.

    Args:
        seed: seed of all draws.
        people: number of identified users.
        items: catalogue size, beside the one that is not available.
        days: length.
        tied: whether all items of a visit have one time, as receipts do, and whole baskets are to
            be predicted; otherwise the next item.
        guests: whether some visits are of users known only by a device.
    """
    generator = np.random.default_rng(seed)
    catalogue = [f"item-{number:03d}" for number in range(items)]
    follows = generator.permutation(items)
    taste = generator.dirichlet(np.full(items, 0.3))
    rows: list[tuple[int, int, str, str, str | None]] = []
    for person in range(people):
        name = f"guest-{person}" if guests and person % 5 == 0 else f"person-{person:02d}"
        own = generator.choice(items, 4, replace=False).tolist()
        liked = set(generator.choice(CATEGORIES, 2, replace=False).tolist())
        near = [number for number in range(items) if number % CATEGORIES in liked]
        day = int(generator.integers(0, 5))
        while day < days:
            start = BEGIN + day * DAY + int(generator.integers(8 * 60, 20 * 60)) * MINUTE
            visit = f"visit-{name}-{day}"
            taken = _visit(generator, own, near, follows, taste)
            at = start + 1 + person
            for number in taken:
                if generator.random() < 0.3:
                    seen = (number + CATEGORIES * int(generator.integers(1, 9))) % items
                    rows.append((at, 3, name, visit, catalogue[seen]))
                    at += 0 if tied else MINUTE // 2
                rows.append((at, 0, name, visit, catalogue[number]))
                at += 0 if tied else MINUTE // 2
            if generator.random() < 0.5:
                rows.append((at, 0, name, visit, SERVICE))
            rows.append((at, 1, name, visit, None))
            day += int(generator.integers(2, 6))
    rows.sort(key=lambda row: row[0])
    return _replay(rows, catalogue, days, tied=tied)


def entries(replay: Replay) -> list[Entry]:
    """Return a replay as log entries: items, users, then events in time order."""
    before = int(replay.timestamp[0]) - DAY
    events: list[dict[str, Any]] = list(replay.events(0, len(replay)))
    return [
        *(Item(timestamp=before, **item) for item in replay.items),
        *(User(timestamp=before, **user) for user in replay.users),
        *(Event(**event) for event in events),
    ]


class Clock:
    """A clock that is set."""

    at = BEGIN

    def __call__(self) -> int:
        return self.at


def write_log(path: Path, what: Iterable[Entry]) -> EmbeddedLog:
    """Write entries to a new log."""
    log = EmbeddedLog(path, durability="process")
    log.append([encode_entry(entry) for entry in what])
    return log


def train_version(log: EmbeddedLog, models: Path, version: str = "1", rounds: int = 15) -> Path:
    """Train a model from a log, as a version in `models`; return its directory.

    One log is learned from once in a run of the tests: each other call gets a copy of that model.
    """
    place = version_directory(models, version)
    options = TrainingOptions(label_days=15, rounds=rounds, threads=1)
    about = hashlib.sha256(repr((options, definitions().fingerprint)).encode())
    for _, payload in log.read(log.begin, log.end - log.begin):
        about.update(payload)
    kept = Path(os.environ[TRAINED]) / about.hexdigest()
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            draft = kept.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)  # a killed process left it
            train(log, definitions(), draft, options)
            draft.rename(kept)
    shutil.copytree(kept, place)
    rename_version(place, version)
    return place


def rename_version(place: Path, version: str, **changes: Any) -> None:
    """Write the version, and other changes, into the manifest of a model."""
    manifest = msgspec.structs.replace(read_manifest(place), version=version, **changes)
    (place / "manifest.json").write_bytes(msgspec.json.encode(manifest))


def engine_at(engine: Engine, log: EmbeddedLog, offset: int, *, chunk: int = 500) -> Engine:
    """Apply the log to an engine up to an offset, or its end."""
    offset = min(offset, log.end)
    while engine.offset < offset:
        engine.apply(log.read(engine.offset, min(chunk, offset - engine.offset)))
    return engine


def _visit(
    generator: np.random.Generator,
    own: Sequence[int],
    near: Sequence[int],
    follows: np.ndarray[Any, np.dtype[np.int64]],
    taste: np.ndarray[Any, np.dtype[np.float64]],
) -> list[int]:
    taken: list[int] = []
    for _ in range(int(generator.integers(3, 8))):
        chance = generator.random()
        if taken and chance < 0.5:
            number = int(follows[taken[-1]])
        elif chance < 0.75:
            number = int(generator.choice(own))
        elif chance < 0.9:
            number = int(generator.choice(near))
        else:
            number = int(generator.choice(len(taste), p=taste))
        if number not in taken:
            taken.append(number)
    return taken


def _replay(
    rows: list[tuple[int, int, str, str, str | None]],
    catalogue: list[str],
    days: int,
    *,
    tied: bool,
) -> Replay:
    timestamp = np.array([row[0] for row in rows], np.int64)
    visits: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if row[1] == 0:
            visits.setdefault(row[3], []).append(number)
    cut = int(np.searchsorted(timestamp, BEGIN + (days * 3 // 4) * DAY))
    asks = []
    for session, numbers in visits.items():
        if numbers[0] < cut or rows[numbers[0]][2].startswith("guest-"):
            continue
        for place in range(1) if tied else range(1, len(numbers)):
            number = numbers[place]
            taken = [rows[n][4] for n in (numbers if tied else numbers[place : place + 1])]
            asks.append(
                Ask(
                    before=number,
                    at=rows[number][0],
                    person=rows[number][2],
                    session_id=session,
                    taken=frozenset(item for item in taken if item is not None),
                )
            )
    return Replay(
        name="shop",
        title="A made-up shop",
        protocol="What is asked for.",
        notes=("Simulated: everything.",),
        items=[
            {
                "item_id": item,
                "category": f"kind-{number % CATEGORIES}",
                "price": 1.0 + number % 13,
                "properties": {"family": f"family-{number % 3}"},
            }
            for number, item in enumerate(catalogue)
        ]
        + [
            {
                "item_id": SERVICE,
                "category": "service",
                "available": False,
                "properties": {"family": "family-0"},
            }
        ],
        users=[{"user_id": p} for p in sorted({r[2] for r in rows if not r[2].startswith("g")})],
        timestamp=timestamp,
        kind=np.array([row[1] for row in rows], np.int8),
        kinds=KINDS,
        person=[row[2] for row in rows],
        session=[row[3] for row in rows],
        item=[row[4] for row in rows],
        price=np.array([np.nan if row[4] is None else 2.5 for row in rows]),
        quantity=np.array([0 if row[1] else 1 for row in rows], np.int64),
        cut=cut,
        asks=sorted(asks, key=lambda ask: ask.before),
        category_property="family",
    )
