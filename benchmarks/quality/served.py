"""The lists of the product: its log, its training, its recommender; only the wire is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.dataset import who
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.demo.datasets import Ask
from tactful.ranking.features import columns_fingerprint
from tactful.ranking.model import Pointer, version_directory, write_pointer
from tactful.recommend.recommender import (
    LEARNED,
    RANKING_EXPERIMENT,
    Recommender,
    RecommenderOptions,
)
from tactful.rerank.arm_policy import ranking_experiment
from tactful.schemas.recommendations import RecommendRequest
from tactful.training.evaluation import CUTOFF
from tactful.training.options import TrainingOptions
from tactful.training.train import train
from tactful_streaming.contract.log_entries import Entry, Event, Item, User, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import MemoryState

_BATCH = 2_000
_HOUR = 3_600_000
_YEAR = 365 * 24 * _HOUR
_VERSION = "1"


class Replayed(Protocol):
    """Part of a `Replay` that is needed here."""

    @property
    def items(self) -> Sequence[Mapping[str, Any]]:
        """Item upserts."""

    @property
    def users(self) -> Sequence[Mapping[str, Any]]:
        """User upserts."""

    @property
    def timestamp(self) -> NDArray[np.int64]:
        """Event times, epoch milliseconds."""

    @property
    def cut(self) -> int:
        """Number of the first event of the test period."""

    @property
    def asks(self) -> Sequence[Ask]:
        """Questions in event order."""

    def events(self, start: int, end: int) -> Iterator[dict[str, Any]]:
        """Wire events number `start` to `end`, the last excluded."""


def served_lists(
    replay: Replayed,
    scratch: Path,
    options: TrainingOptions | None,
    *,
    tells_visit: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[str, ...]]:
    """Train on everything before the cut, then answer each question in its turn.

    Args:
        replay: the events and the questions.
        scratch: an empty directory.
        options: of the training; None for none.
        tells_visit: whether the visit is told where the person is.
        progress: told how many questions are answered, of how many.

    Returns:
        Item ids of each list, best first.
    """

    def as_asked(ask: Ask) -> RecommendRequest:
        visit = ask.session_id if tells_visit else None
        return RecommendRequest(**who(ask.person), session_id=visit)

    [lists] = answered(replay, scratch, options, [as_asked], progress=progress)
    return lists


def answered(
    replay: Replayed,
    scratch: Path,
    options: TrainingOptions | None,
    ways: Sequence[Callable[[Ask], RecommendRequest]],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[tuple[str, ...]]]:
    """Train as `served_lists` does, and answer each question asked in several ways.

    Before a question the engine has applied every event before it and nothing more, as a server has
    that is asked with `after`. What is popular is counted anew once an hour of the replay's time.

    Args:
        replay: the events and the questions.
        scratch: an empty directory.
        options: of the training; None for none.
        ways: makes the request of a question; number of items and time are filled in.
        progress: told how many questions are answered, of how many.

    Returns:
        For each way, the item ids of each list, best first.
    """
    settings = Settings(storage=StorageSettings(data=scratch))
    definitions = load_definitions(settings.features)
    log = EmbeddedLog(scratch / "log", durability="process")
    _append(log, _catalogue(replay))
    for start in range(0, replay.cut, _BATCH):
        _append(log, _events(replay, start, min(start + _BATCH, replay.cut)))
    if options is not None:
        version = version_directory(settings.models, _VERSION)
        train(log, definitions, version, options)
        write_pointer(settings.models, Pointer(version=_VERSION))
    engine = Engine(definitions, MemoryState())
    while engine.offset < log.end:
        engine.apply(log.read(engine.offset, _BATCH))
    log.close()
    clock = _Clock()
    answering = Recommender(
        engine,
        RecommenderOptions(
            models=settings.models,
            definitions=columns_fingerprint(definitions),
            experiment=ranking_experiment(settings.experiments),
            monotonic=clock,
        ),
    )
    lists: list[list[tuple[str, ...]]] = [[] for _ in ways]
    sent, hour = replay.cut, -1
    for number, ask in enumerate(replay.asks):
        if ask.before > sent:
            fresh = [encode_entry(entry) for entry in _events(replay, sent, ask.before)]
            engine.apply([*enumerate(fresh, start=engine.offset)])
            sent = ask.before
        if ask.at // _HOUR != hour:
            hour = ask.at // _HOUR
            clock.seconds = ask.at / 1e3
            answering.refresh()
        for way, found in zip(ways, lists, strict=True):
            request = msgspec.structs.replace(
                way(ask), count=CUTOFF, timestamp=ask.at, force={RANKING_EXPERIMENT: LEARNED}
            )
            answer, _ = answering.recommend(request, now=ask.at)
            found.append(tuple(item.item_id for item in answer.items))
        progress(number + 1, len(replay.asks))
    answering.close()
    return lists


class _Clock:
    """Time passes as in the data."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def _catalogue(replay: Replayed) -> list[Entry]:
    before = int(replay.timestamp.min()) - 1
    items: list[Entry] = [Item(**{"timestamp": before, **item}) for item in replay.items]
    users: list[Entry] = [User(**{"timestamp": before, **user}) for user in replay.users]
    return items + users


def _events(replay: Replayed, start: int, end: int) -> list[Entry]:
    rows: list[dict[str, Any]] = [*replay.events(start, end)]
    # A server receives a history after it happened.
    received = int(replay.timestamp.max()) + _YEAR
    return [Event(**row, received_at=received) for row in rows]


def _append(log: EmbeddedLog, entries: list[Entry]) -> None:
    log.append([encode_entry(entry) for entry in entries])
