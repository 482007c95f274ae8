"""``tactful features rescale``: move the state of all workers to another number of partitions."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.errors import ConfigError, StorageError, TactfulError
from tactful.event_log.encryption import open_seal
from tactful.feature_workers.prepare import followed_erasures
from tactful.maintenance.rescale import Target, rescale_workers
from tactful.util.clock import now_ms
from tactful.util.signals import on_stop_signals
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import StreamingError


@click.command("rescale")
@cli.with_settings
@click.option("--topic", required=True, help="New topic of the log.")
@click.option(
    "--partitions",
    required=True,
    type=click.IntRange(1, 10_000),
    help="Number of partitions of the new topic.",
)
@click.option(
    "--into", required=True, type=cli.any_directory, help="New data directory of the workers."
)
@click.option("--matches-topic", help="Topic for matches, as given to the workers.")
@cli.json_option
def rescale(
    settings: Settings,
    topic: str,
    partitions: int,
    into: Path,
    matches_topic: str | None,
    as_json: bool,
) -> None:
    """Move the state of workers to a log with another number of partitions.

    Stop the servers and all workers first; the command refuses to run otherwise. The old topic and
    states are unchanged. Run it again to resume.
    """
    if settings.log.in_files:
        raise ConfigError(
            'log.kind is "embedded": that log has one partition, which is never divided; a log of '
            "many partitions is one in Kafka"
        )
    stopping = threading.Event()
    definitions = load_definitions(settings.features)
    with (
        followed_erasures(settings) as erasures,
        on_stop_signals(stopping.set),
        cli.progress_bar(quiet=as_json, unit="key", desc="rescale") as bar,
        cli.reported_as(StorageError, StreamingError),
        contextlib.ExitStack() as stack,
    ):
        seal = open_seal(settings, clock=now_ms)
        if seal is not None:
            stack.callback(seal.close)
        done = rescale_workers(
            settings,
            definitions,
            Target(topic, partitions, into),
            matches_topic=matches_topic,
            erasures=erasures,
            seal=seal,
            progress=cli.advance(bar),
            stop=stopping.is_set,
        )
    if done is None:
        raise TactfulError("stopped before anything was moved: run it again")
    if as_json:
        cli.print_json(done)
        return
    click.echo(
        f"{len(done.ends)} partitions of topic {done.source!r} are now {done.partitions} of "
        f"{done.topic!r}. Set log.topic to it and storage.data of the workers to {into}, name a "
        "new online.prefix where there is one, and start them.",
        err=True,
    )
