"""CPU time of an event by the number of partitions that one process owns.

The packaged features of a worker, in an engine and a RocksDB state for each partition. Batches are
those of a worker whose partitions arrive in event time: each has the next events of all partitions.
"""

from __future__ import annotations

import contextlib
import gc
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.figures import Figure
from benchmarks.streaming.events import events
from tactful.config.load import load_settings
from tactful.config.settings import PACKAGED_FEATURES
from tactful.pipeline.backends import engine_options
from tactful.pipeline.online_features import shared_definitions
from tactful_streaming.contract.key_partition import partition_of
from tactful_streaming.contract.log_entries import Records
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import RocksState
from tactful_streaming.worker.worker import DEFAULT_WORKER_OPTIONS

_PARTITIONS = (1, 50)
_VISIT = 8  # events of a session, on average

_Batch = Mapping[int, Records]
"""Records by partition."""


def cpu_by_partitions(quick: bool) -> list[Figure]:
    """Measure one process that owns 1 or 50 partitions, in turns."""
    count, rounds = (60_000, 3) if quick else (200_000, 5)
    batches = {number: _batches(count, number) for number in _PARTITIONS}
    cpu: dict[int, list[float]] = {number: [] for number in _PARTITIONS}
    for _ in range(rounds):
        for number in _PARTITIONS:
            cpu[number].append(_apply(batches[number], number) / count * 1e6)
    note = (
        f"packaged features of a worker, {count:,} events in batches of "
        f"{DEFAULT_WORKER_OPTIONS.batch:,}, each committed to RocksDB; CPU time of all threads"
    )
    figures = [
        Figure(
            f"cpu_us_per_event_{number}_partition{'s' * (number > 1)}",
            round(median(taken), 2),
            "us",
            round(min(taken), 2),
            round(max(taken), 2),
            rounds,
            note,
        )
        for number, taken in cpu.items()
    ]
    ratios = sorted(many / one for one, many in zip(*cpu.values(), strict=True))
    middle, low, high = (round(value, 3) for value in (median(ratios), ratios[0], ratios[-1]))
    note = "CPU time of an event in one of 50 partitions over that in a single one, round by round"
    return [*figures, Figure("cpu_50_partitions_vs_1", middle, "1", low, high, rounds, note)]


def _batches(count: int, partitions: int) -> Sequence[_Batch]:
    encode = msgspec.json.Encoder().encode
    ends, size = [0] * partitions, DEFAULT_WORKER_OPTIONS.batch
    batches: list[_Batch] = []
    waiting: dict[int, list[bytes]] = {}
    for number, event in enumerate(events(count), 1):
        assert event.user_id is not None
        # The stream has a session for each event: here a user's events of a while share one.
        visit = f"{event.user_id}-{number // (_VISIT * 10_000)}"
        partition = partition_of(event.user_id, partitions)
        event = msgspec.structs.replace(event, session_id=visit)
        waiting.setdefault(partition, []).append(encode(event))
        if number % size and number < count:
            continue
        batch = {}
        for partition, payloads in waiting.items():
            begin = ends[partition]
            ends[partition] += len(payloads)
            batch[partition] = Records(range(begin, ends[partition]), payloads)
        batches.append(batch)
        waiting = {}
    return batches


def _apply(batches: Sequence[_Batch], partitions: int) -> float:
    """Apply and commit all batches; return the CPU seconds."""
    definitions = shared_definitions(load_definitions(PACKAGED_FEATURES.read_text("utf-8")))
    options = engine_options(load_settings(None))
    route = partial(partition_of, partitions=partitions) if partitions > 1 else None
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        engines = []
        for number in range(partitions):
            own = replace(options, partition=number, partition_of=route)
            engine = Engine(definitions, RocksState(Path(folder) / str(number)), own)
            opened.callback(engine.close)
            engines.append(engine)
        gc.disable()  # as the worker does for each batch
        try:
            started = time.process_time()
            for batch in batches:
                for number, records in batch.items():
                    engines[number].apply(records)
                for engine in engines:
                    engine.commit()
            return time.process_time() - started
        finally:
            gc.enable()
