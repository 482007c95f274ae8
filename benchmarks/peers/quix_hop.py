"""Quix Streams' hopping count of each user, 5 minutes every minute: Kafka in, Kafka out.

Usage: quix_hop.py SERVERS TOPIC OUTPUT COUNT DELAY_MS STATE_DIR

Runs in the peers' own environment. The last line it prints is JSON: events, rows, cpu_s (of all
threads, from the first event to the last), wall_s and version.
"""

import importlib.metadata
import json
import sys
import time
from datetime import timedelta
from typing import Any

from quixstreams import Application

_SESSION = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1500}


def main(servers: str, name: str, output: str, count: int, delay_ms: int, state: str) -> None:
    """Run the job over the first `count` events of a topic."""
    application = Application(
        broker_address=servers,
        consumer_group=output,
        auto_offset_reset="earliest",
        state_dir=state,
        commit_interval=5.0,
        loglevel="WARNING",
        consumer_extra_config={**_SESSION, "fetch.queue.backoff.ms": 5},
        request_timeout=20.0,
        topic_create_timeout=60,
    )
    source = application.topic(
        name,
        value_deserializer="json",
        timestamp_extractor=lambda value, headers, timestamp, kind: value["timestamp"],
    )
    started: list[tuple[float, float]] = []
    seen = rows = 0

    def note(value: dict[str, Any]) -> None:
        nonlocal seen
        if not started:
            started.append((time.perf_counter(), time.process_time()))
        seen += 1
        if seen >= count:
            application.stop()

    def note_row(value: dict[str, Any]) -> None:
        nonlocal rows
        rows += 1

    window = (
        application.dataframe(source)
        .update(note)
        .hopping_window(
            timedelta(minutes=5),
            timedelta(minutes=1),
            grace_ms=timedelta(milliseconds=delay_ms),
            on_late=lambda *arguments: False,
        )
    )
    results = window.count().final().update(note_row)
    results.to_topic(application.topic(output, value_serializer="json"))
    application.run()
    wall, cpu = started[0]
    print(
        json.dumps(
            {
                "events": seen,
                "rows": rows,
                "cpu_s": time.process_time() - cpu,
                "wall_s": time.perf_counter() - wall,
                "version": importlib.metadata.version("quixstreams"),
            }
        )
    )


if __name__ == "__main__":
    servers, name, output, count, delay_ms, state = sys.argv[1:]
    main(servers, name, output, int(count), int(delay_ms), state)
