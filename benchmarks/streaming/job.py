"""Our side of the streaming benchmark: one worker process, Kafka in, Kafka out.

Usage: python -m benchmarks.streaming.job KIND SERVERS TOPIC OUTPUT COUNT FOLDER

KIND is one of DEFINITIONS. The worker is the product's own: each partition has an engine, its
state is in RocksDB and committed every ten seconds, as the peers' is; what fired is published
before that, in a transaction. After COUNT events time ends, so that all that is open fires, as
Flink does at the end of its input. The last line printed is JSON: events, rows, cpu_s (of all
threads, from the first event to the last row) and wall_s.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path

from benchmarks.streaming.events import DELAY_MS
from tactful_streaming.contract.log_entries import Tick, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.worker.partition_job import JobOptions
from tactful_streaming.worker.worker import Worker, WorkerOptions

_TYPES = "[view, click, add_to_cart, leave, purchase]"
DEFINITIONS = {
    "hop": f"""
- {{name: hop, entity: user, event: {_TYPES}, aggregate: count, window: {{size: 5m, slide: 1m}}}}
""",
    "decay": f"""
- {{name: decay, entity: user, event: {_TYPES}, aggregate: count, group_by: category,
   window: {{size: 5m, slide: 1m, decay: 0.8}}}}
""",
    "cep": """
- {name: cep, entity: user, sequence: [view, add_to_cart, leave], within: 5m, contiguity: strict}
""",
}
_COMMIT_S = 10.0
_AFTER_ALL_MS = 3_600_000


def main(kind: str, servers: str, topic: str, output: str, count: int, folder: Path) -> None:
    """Run the worker over `count` events of `topic`; print what it took."""
    options = JobOptions(
        kafka=KafkaSettings(servers, topic),
        data=folder,
        group=output,
        features_topic=output,
        matches_topic=output,
        engine=EngineOptions(
            dedupe_days=0,  # the peers count an event as often as it comes
            watermark_delay_ms=DELAY_MS,
            allowed_lateness_ms=0,
        ),
    )
    worker = Worker(
        load_definitions(DEFINITIONS[kind]),
        options,
        # No ticks: the topic is read again by the next contender.
        pace=WorkerOptions(commit_interval_s=_COMMIT_S, idle_ms=600_000),
    )

    def applied() -> int:
        return sum(job.offset for job in worker.jobs.values())

    try:
        while not applied():
            started = time.perf_counter(), time.process_time()
            worker.step()
        while applied() < count:
            worker.step()
        gc.disable()  # as the worker does for each batch
        for job in worker.jobs.values():
            end = Tick(timestamp=job.watermark + _AFTER_ALL_MS)
            job.apply([(job.offset, encode_entry(end, "json"))])
            while job.is_emitting:
                job.emit_portion()
        worker.commit()
        wall = time.perf_counter() - started[0]
        cpu = time.process_time() - started[1]
        rows = worker.progress().rows
    finally:
        worker.close()
    print(json.dumps({"events": count, "rows": rows, "cpu_s": cpu, "wall_s": wall}))


if __name__ == "__main__":
    kind, servers, topic, output, count, folder = sys.argv[1:]
    main(kind, servers, topic, output, int(count), Path(folder))
