"""Settings of the server process: address, limits, webhooks, workers, log lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from tactful.config.fields import PositiveFloat, PositiveInt, Variable


@dataclass(frozen=True)
class ServerSettings:
    """Settings of the HTTP server.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 takes a free one.
        dev: no API keys and replay of past times; only on a loopback address.
        workers: number of worker processes; 0: the process that owns the state answers requests.
        header_timeout_s: longest time for the head of a request to arrive.
        body_timeout_s: longest time for the body of a request to arrive.
        keep_alive_s: time after which an idle connection is closed; a proxy in front should close
            it earlier.
        shutdown_s: longest time for requests in progress to finish at a stop.
        recommend_queue: recommendation requests that may wait before others get 503.
        recommend_wait_s: longest wait of one during a burst.
        recommend_standing_s: longest predicted wait of one during overload.
        after_wait_s: longest wait of ``after`` for the engine.
        cors_origins: origins whose web pages may send events and request recommendations, such as
            ``https://shop.example``, separated by commas; empty for none.
    """

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8420
    dev: bool = False
    workers: Annotated[int, Meta(ge=0, le=256)] = 0
    header_timeout_s: PositiveFloat = 10.0
    body_timeout_s: PositiveFloat = 30.0
    keep_alive_s: PositiveInt = 75
    shutdown_s: PositiveInt = 20
    recommend_queue: PositiveInt = 128
    recommend_wait_s: PositiveFloat = 1.0
    recommend_standing_s: PositiveFloat = 0.05
    after_wait_s: PositiveFloat = 2.0
    cors_origins: str = ""


@dataclass(frozen=True)
class ActionSettings:
    """Settings of the webhook for actions that sequences and joins emit.

    Attributes:
        webhook_url: address that every action is posted to; empty for none.
        secret_env: variable with the secret that signs the requests …
        secret_file: … or the file that holds it.
        attempts: most attempts to send one action.
        timeout_s: longest time of one attempt.
    """

    webhook_url: str = ""
    secret_env: Variable = ""
    secret_file: Path = Path()
    attempts: PositiveInt = 12
    timeout_s: PositiveFloat = 10.0


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of ``tactful worker``, which computes a share of the partitions.

    Attributes:
        group: consumer group.
        instance: name of this member that survives a restart; empty for a new one each time.
        threads: number of members in this process.
        lead_ms: longest lead of the event time of a partition over the others.
        idle_s: silence after which a partition no longer delays the others, and uses the wall
            clock.
        fired_topic: topic for the results of triggered windows; empty for none.
        late_topic: topic for events that came too late; empty for none.
        checkpoints: directory, shared by all hosts, of copies of the state; empty for none.
        checkpoint_s: seconds between two copies.
        metrics_port: port on which Prometheus reads metrics; 0 for none.
        metrics_host: address to listen on for that.
    """

    group: Annotated[str, Meta(min_length=1)] = "tactful-worker"
    instance: str = ""
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    lead_ms: PositiveInt = 60_000
    idle_s: PositiveFloat = 5.0
    fired_topic: str = ""
    late_topic: str = ""
    checkpoints: Path = Path()
    checkpoint_s: PositiveInt = 300
    metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    metrics_host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"


@dataclass(frozen=True)
class LimitSettings:
    """Limits of requests.

    Attributes:
        body_bytes: largest body.
        batch: most events, items or users in one request.
        future_ms: longest lead of an event's time over the server's clock.
        pending_bytes: bytes that may wait for the disk before new events get 429.
        engine_lag: log records the engine may lag behind before new events get 429.
    """

    body_bytes: Annotated[int, Meta(ge=1024)] = 4 * 1024 * 1024
    batch: PositiveInt = 1_000
    future_ms: Annotated[int, Meta(ge=0)] = 300_000
    pending_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024 * 1024
    engine_lag: PositiveInt = 200_000


@dataclass(frozen=True)
class LoggingSettings:
    """Settings of log lines.

    Attributes:
        level: least severe level that is logged.
        format: ``text`` or ``json``, one object a line.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
