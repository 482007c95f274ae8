"""``tactful sink``: write fired windows from a Kafka topic to a database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from tactful.cli import options as cli
from tactful.config.settings import secret
from tactful.errors import ConfigError, StorageError
from tactful.util.deadline import Deadline
from tactful.util.signals import on_stop_signals
from tactful.util.supervisor import RESTART, supervise_this
from tactful_streaming.errors import LogError, LogSettingsError, OnlineStoreError
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.consumer_group import TEMPORARY
from tactful_streaming.online.store import is_redis_url
from tactful_streaming.sinks.redis import RedisRows
from tactful_streaming.sinks.sink import RowTarget, SinkProgress, open_rows, run_sink
from tactful_streaming.sinks.sql import SqlRows

_END_S = 35.0
"""Longest time from a stop signal to the end of the process."""

# Properties of Kafka's clients that have a name of ours.
_SETTINGS = {
    "security.protocol": "security",
    "ssl.ca.location": "ca_file",
    "ssl.certificate.location": "certificate_file",
    "ssl.key.location": "key_file",
    "ssl.key.password": "key_password",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.username": "username",
    "sasl.password": "password",
    "sasl.oauthbearer.client.id": "username",
    "sasl.oauthbearer.client.secret": "password",
    "sasl.oauthbearer.token.endpoint.url": "token_url",
    "sasl.oauthbearer.scope": "token_scope",
    "sasl.oauthbearer.extensions": "token_extensions",
    "https.ca.location": "token_ca_file",
    "group.protocol": "group_protocol",
}


@click.command(
    epilog=cli.example(
        "tactful sink --kafka broker:9092 --topic fired --to redis://localhost:6379/0"
    )
)
@click.option("--kafka", "servers", required=True, metavar="HOST:PORT", help="Kafka brokers.")
@click.option("--topic", required=True, help="Topic with the fired windows.")
@click.option(
    "--to",
    "location",
    help="redis://…, valkey://…, postgresql+psycopg://…, mysql+pymysql://… or sqlite:///…; give "
    "passwords in TACTFUL_SINK_TARGET.",
)
@click.option("--group", default="tactful-sink", help="Consumer group.")
@click.option("--prefix", default="tactful-fired", help="Prefix of the keys in Redis.")
@click.option("--ttl", type=click.FloatRange(min=1), help="Seconds an entity stays in Redis.")
@click.option(
    "--kafka-properties",
    "properties",
    type=cli.existing_file,
    help="File of client properties, NAME=VALUE a line, for TLS and SASL.",
)
@click.option(
    "--idle-exit",
    type=click.FloatRange(min=0),
    help="End after so many idle seconds at the end of the topic.",
)
@click.option(
    "--supervise", is_flag=True, help="Restart the sink after a crash, a kill or exit code 75."
)
@cli.json_option
def sink(
    servers: str,
    topic: str,
    location: str | None,
    group: str,
    prefix: str,
    ttl: float | None,
    properties: Path | None,
    idle_exit: float | None,
    supervise: bool,
    as_json: bool,
) -> None:
    """Write fired windows from Kafka to Redis or a SQL database, until SIGTERM or Ctrl-C.

    After a crash uncommitted windows are read again; the newest one counts. Exit code 75: start it
    again.
    """
    if supervise:
        supervise_this(again=RESTART)
    with cli.reported_as(ConfigError, LogSettingsError):
        settings = _kafka_settings(servers, topic, properties)
        address = location or _location()
    with cli.reported_as(StorageError, OnlineStoreError, LogError):
        target = _open_target(address, prefix, ttl)
        source = open_rows(settings, group)
    told = threading.Event()  # a batch at hand is written and committed
    text = f"tactful: the sink did not end within {_END_S:g} s. Nothing is lost. Present calls:"
    deadline = Deadline(_END_S, RESTART, text)

    def end() -> None:
        told.set()
        deadline.begin()

    with (
        deadline,
        cli.progress_bar(quiet=as_json, unit=" rows", desc=topic) as bar,
        on_stop_signals(end),
        cli.reported_as(StorageError, LogError),
        _restarted(),
        closing(target),
        closing(source),
    ):
        idle = _Idle(idle_exit)

        def advanced(progress: SinkProgress) -> None:
            idle.see(progress)
            bar.update(progress.rows - bar.n)

        def pause(seconds: float) -> None:
            told.wait(seconds)

        def stop() -> bool:
            return told.is_set() or (idle.over() and source.at_end())

        done = run_sink(source, target, stop=stop, progress=advanced, sleep=pause)
    if as_json:
        figures = {"rows": done.rows, "invalid": done.invalid, "empty": done.empty}
        cli.print_json({**figures, "failures": done.failures})
    else:
        click.echo(f"{done.rows} rows written, {done.invalid} invalid, {done.empty} empty")


@contextmanager
def _restarted() -> Iterator[None]:
    """End with the exit code that asks for a restart after an error that may pass."""
    try:
        yield
    except TEMPORARY as error:
        click.echo(f"tactful: {error}", err=True)
        raise SystemExit(RESTART) from error


class _Idle:
    """Idle timer: detects that nothing came for some seconds; None: never.

    Silence alone is no end: the group may still share out the partitions, or the brokers be away.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._seen: Any = None
        self._since = time.monotonic()

    def see(self, progress: SinkProgress) -> None:
        seen = (dict(progress.positions), progress.failures)
        if seen != self._seen:
            self._seen = seen
            self._since = time.monotonic()

    def over(self) -> bool:
        return self._seconds is not None and time.monotonic() - self._since >= self._seconds


def _location() -> str:
    """Read the address of the target, with its password, from a variable or its file."""
    address = secret("--to is missing, and its default", "TACTFUL_SINK_TARGET")
    assert address is not None
    return address


def _open_target(location: str, prefix: str, ttl: float | None) -> RowTarget:
    """Open the target and test it, so that a wrong address fails at once."""
    target: RowTarget
    if is_redis_url(location):
        target = RedisRows(location, prefix=prefix, ttl_s=ttl)
    elif ttl is not None:
        raise ConfigError("--ttl is for Redis: rows in a table stay until somebody deletes them")
    else:
        target = SqlRows(location)
    target.read([""])
    return target


def _kafka_settings(servers: str, topic: str, properties: Path | None) -> KafkaSettings:
    known: dict[str, Any] = {}
    extra: dict[str, str] = {}
    lines = properties.read_text("utf-8").splitlines() if properties is not None else []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, value = (part.strip() for part in line.partition("="))
        if not separator:
            raise ConfigError(f"{properties}:{number}: a line is NAME=VALUE")
        if name not in _SETTINGS:
            extra[name] = value
        elif name.endswith(".location"):
            known[_SETTINGS[name]] = Path(value)
        else:
            known[_SETTINGS[name]] = value.lower() if name == "security.protocol" else value
    return KafkaSettings(servers, topic, extra=extra, **known)
