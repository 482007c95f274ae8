"""Settings of the server process: address, limits, webhooks, workers, log lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from tactful.config.fields import PositiveFloat, PositiveInt, Variable


@dataclass(frozen=True)
class ServerSettings:
    """How the HTTP server listens.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 takes a free one.
        dev: no API keys and replay of past times; only on a loopback address.
        workers: how many further processes answer requests; 0: the one that keeps the state does.
        header_timeout_s: how long the head of a request may take to arrive.
        body_timeout_s: how long the body of a request may take to arrive.
        keep_alive_s: how long an idle connection is kept; a proxy in front should let go of it
            first.
        shutdown_s: how long requests in progress may take to finish at a stop.
        recommend_queue: recommendations that may wait for their turn before others get 503.
        recommend_wait_s: how long one may wait for its turn, in a burst.
        recommend_standing_s: how long it may wait once more is asked than can be answered.
        after_wait_s: how long ``after`` may wait for the engine.
        cors_origins: origins whose web pages may send events and ask for recommendations, such as
            ``https://shop.example``, several separated by commas; empty for none.
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
    """Who is told of the actions that sequences and joins emit.

    Attributes:
        webhook_url: address that every action is posted to; empty for none.
        secret_env: variable with the secret that signs what is posted …
        secret_file: … or the file that holds it.
        attempts: how often one is sent at most.
        timeout_s: how long one attempt may take.
    """

    webhook_url: str = ""
    secret_env: Variable = ""
    secret_file: Path = Path()
    attempts: PositiveInt = 12
    timeout_s: PositiveFloat = 10.0


@dataclass(frozen=True)
class WorkerSettings:
    """How ``tactful worker`` shares the partitions of the log with its like.

    Attributes:
        group: the consumer group.
        instance: name of this member that outlives a restart; empty for a new one each time.
        threads: how many members this process is.
        lead_ms: how far the event time of a partition may be ahead of the others.
        idle_s: silence after which a partition no longer holds the others up, and time passes in
            it by the clock.
        fired_topic: topic that windows which fire are written to; empty for none.
        late_topic: topic that events which came too late are written to; empty for none.
        checkpoints: directory, shared by all hosts, of copies of the state; empty for none.
        checkpoint_s: how often a copy is made.
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
    """What a request may weigh.

    Attributes:
        body_bytes: largest body.
        batch: most events, items or users in one request.
        future_ms: how far ahead of the server's clock an event may be.
        pending_bytes: bytes waiting for the disk before new ones get 429.
        engine_lag: log records the engine may be behind before new events get 429.
    """

    body_bytes: Annotated[int, Meta(ge=1024)] = 4 * 1024 * 1024
    batch: PositiveInt = 1_000
    future_ms: Annotated[int, Meta(ge=0)] = 300_000
    pending_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024 * 1024
    engine_lag: PositiveInt = 200_000


@dataclass(frozen=True)
class LoggingSettings:
    """What is logged.

    Attributes:
        level: least severe level that is logged.
        format: ``text`` for people or ``json``, one object a line.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
