"""Windows of many rows are written in portions, and each row once, through kill -9 between them."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.streaming.kills import run_with_kills
from tests.streaming.shard import append, definitions, new_shard, read_topic
from tests.streaming.streams import START, event_of

from tactful_streaming.contract.log_entries import Row
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.triggers import WindowResult
from tactful_streaming.worker.output_rows import encode_results

pytest.importorskip("confluent_kafka")

_USERS = 60
_DAY_MS = 86_400_000
_PROGRAM = """
import sys
from pathlib import Path
from tests.streaming.shard import definitions
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.worker.partition_job import JobOptions
from tactful_streaming.worker.worker import Worker, WorkerOptions

servers, log, fired, group, ends = {arguments!r}
options = JobOptions(
    kafka=KafkaSettings(servers, topic=log, session_timeout_ms={session_ms}),
    data=Path(sys.argv[1]),
    group=group,
    features_topic=fired,
    engine=EngineOptions(watermark_delay_ms=30_000, allowed_lateness_ms=0, portion_rows=10),
)
pace = WorkerOptions(commit_interval_s=0.01, batch=20, alignment_ms=None, sends_ticks=False)
worker = Worker(definitions(), options, pace=pace)

def reached():
    return {{n: job.offset for n, job in worker.jobs.items() if not job.is_emitting}}

applied = 0
while any(reached().get(number, 0) < end for number, end in ends.items()):
    worker.step()
    emitting = [n for n, job in worker.jobs.items() if job.is_emitting]
    others = sum(job.offset for n, job in worker.jobs.items() if n not in emitting)
    if emitting:
        print("portion", "others go on" if others > applied else "", flush=True)
    applied = others
worker.commit()
worker.close()
print("done", flush=True)
"""


def _by_key(rows: Sequence[Row]) -> Mapping[bytes, list[bytes]]:
    keyed: dict[bytes, list[bytes]] = {}
    for key, value in rows:
        keyed.setdefault(key, []).append(value)
    return keyed


@pytest.mark.slow
def test_each_row_is_written_once_and_in_order_through_kills(
    kafka_servers: str, tmp_path: Path
) -> None:
    from tests.streaming.brokers import session_ms

    with new_shard(kafka_servers, tmp_path, 2, lateness=0) as shard:
        users = [f"u{number}" for number in range(_USERS)]
        first = shard.log.partition_of(users[0])
        entries = [
            event_of(f"e{round}-{user}", "view", START + round * 60_000, user)
            for round in range(3)
            for user in users
        ]
        # In one partition a day passes at once, while the other has events to read.
        entries.append(event_of("tomorrow", "view", START + _DAY_MS, users[0]))
        others = [user for user in users if shard.log.partition_of(user) != first]
        entries += [
            event_of(f"later-{number}", "view", START + 180_000, others[number % len(others)])
            for number in range(400)
        ]
        ends = append(shard, entries)
        kafka, fired = shard.kafka, shard.options.features_topic
        assert fired is not None
        arguments = (kafka.servers, kafka.topic, fired, shard.options.group, dict(ends))
        program = _PROGRAM.format(arguments=arguments, session_ms=session_ms())
        assert run_with_kills(program, tmp_path / "data", random.Random(5), 40) > 0

        expected: list[Row] = []

        def note(results: list[WindowResult]) -> None:
            expected.extend(encode_results(results))

        options = EngineOptions(watermark_delay_ms=30_000, allowed_lateness_ms=0, on_results=note)
        for records in read_topic(kafka).values():
            Engine(definitions(), MemoryState(), options).apply(records)
        topic = replace(kafka, topic=fired)
        written = [value for records in read_topic(topic).values() for _, value in records]
        assert sorted(written) == sorted(value for _, value in expected)
        order = [value for value in written if b'"u0"' in value]
        assert order == [value for key, value in expected if key.startswith(b"u0|")]
