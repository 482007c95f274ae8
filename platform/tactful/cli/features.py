"""Commands around feature definitions: ``tactful features``."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from tactful.cli import options as cli
from tactful.cli.features_propose import propose_features
from tactful.config.settings import Settings
from tactful.errors import ConfigError, StorageError, TactfulError
from tactful.event_log.encryption import open_seal
from tactful.feature_workers.prepare import followed_erasures
from tactful.maintenance.backfill import Backfill, unfinished
from tactful.maintenance.backfill_targets import opened_parts, require_state
from tactful.maintenance.rescale import Target, rescale_workers
from tactful.metadata.connections import open_installation
from tactful.metadata.directory_lock import exclusive
from tactful.subjects.suppression import open_suppression
from tactful.util.clock import now_ms
from tactful.util.jobs import tracked
from tactful.util.signals import on_stop_signals
from tactful_streaming.definitions.model import dump_definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.schema_evolution import EvolutionPlan, plan_evolution
from tactful_streaming.errors import DefinitionError, StreamingError
from tactful_streaming.patterns.factory import make_operators

_state_options = cli.with_options(
    click.option(
        "--features",
        type=cli.existing_file,
        help="Definitions to plan for; by default those of the settings.",
    ),
    cli.with_settings,
)


@click.group()
def features() -> None:
    """Propose and check feature definitions, and migrate a state to new ones."""


features.add_command(propose_features)


@features.command("check", epilog=cli.example("tactful features check features.yaml"))
@click.argument("file", type=cli.existing_file)
@cli.json_option
def check(file: Path, as_json: bool) -> None:
    """Check the definitions in FILE; the first error is printed with its line."""
    with cli.reported_as(ConfigError, DefinitionError):
        definitions = load_definitions(file)
    try:
        make_operators(definitions)  # a sequence may need too many states
    except DefinitionError as error:
        raise ConfigError(f"{file}: {error}") from error
    if as_json:
        cli.print_json(
            {
                "fingerprint": definitions.fingerprint,
                "definitions": [definition.as_data() for definition in definitions.all],
            }
        )
        return
    click.echo(dump_definitions(definitions), nl=False)
    click.echo(
        f"{len(definitions.features)} features, {len(definitions.sequences)} sequences, "
        f"{len(definitions.joins)} joins; fingerprint {definitions.fingerprint[:12]}",
        err=True,
    )


@features.command("plan", epilog=cli.example("tactful features plan --features new.yaml"))
@_state_options
@cli.json_option
def plan(settings: Settings, features: Path | None, as_json: bool) -> None:
    """Print the effect of changed definitions on the state; changes nothing."""
    with cli.reported_as(ConfigError, DefinitionError):
        definitions = load_definitions(features or settings.features)
    plans: list[EvolutionPlan] = []
    with (
        cli.reported_as(TactfulError, StreamingError),
        opened_parts(settings, definitions) as parts,
    ):
        for part in parts:
            with contextlib.closing(part.read()) as state:
                plans.append(plan_evolution(state, part.definitions, begin=part.begin))
    begun = unfinished(settings, definitions)
    planned = _together(plans)
    records = sum(plan.records for plan in plans)
    if as_json:
        figures = {"records": records, "states": len(plans), "backfills": begun}
        cli.print_json(msgspec.to_builtins(planned) | figures)
        return
    for what, names in (
        ("kept", planned.kept),
        ("to be computed from the log", planned.recomputed),
        ("begins now", planned.restarted),
        ("dropped", planned.dropped),
    ):
        for name in names:
            click.echo(f"{name}: {what}")
    for job in begun:
        ended = "was broken off" if job.error is None else f"failed: {job.error}"
        click.echo(
            f"A backfill of {', '.join(job.features)} has come to offset {job.position} of "
            f"{job.end} and {ended}; the next one goes on there.",
            err=True,
        )
    if planned.recomputed:
        where = f"from offset {planned.begin} to {planned.offset}"
        if len(plans) > 1:
            where = f"of {len(plans)} partitions"
        click.echo(f"`tactful features backfill` reads {records} records, {where}.")
        if any(plan.begin > 0 for plan in plans):
            click.echo(
                f"Records before offset {max(plan.begin for plan in plans)} are gone by retention: "
                "windows that reach further back will not hold them.",
                err=True,
            )


def _together(plans: Sequence[EvolutionPlan]) -> EvolutionPlan:
    """Combine the plans of several states, each with a part of the features."""

    def names(kind: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for plan in plans for name in getattr(plan, kind)))

    gone = set(names("kept")) | set(names("recomputed")) | set(names("restarted"))
    return EvolutionPlan(
        kept=names("kept"),
        dropped=tuple(name for name in names("dropped") if name not in gone),
        recomputed=names("recomputed"),
        restarted=names("restarted"),
        begin=sum(plan.begin for plan in plans),
        offset=sum(plan.offset for plan in plans),
    )


@features.command("backfill", epilog=cli.example("tactful features backfill"))
@_state_options
@cli.json_option
def backfill(settings: Settings, features: Path | None, as_json: bool) -> None:
    """Compute missing features from the log; run it again to resume.

    Servers and workers with the old definitions may be running; only the last step, the merge,
    needs them stopped.
    """
    with cli.reported_as(ConfigError, DefinitionError):
        definitions = load_definitions(features or settings.features)
    require_state(settings)
    with cli.reported_as(TactfulError, StreamingError), contextlib.ExitStack() as stack:
        metadata = stack.enter_context(contextlib.closing(open_installation(settings)))
        suppression = open_suppression(settings, metadata, clock=now_ms)
        parts = stack.enter_context(opened_parts(settings, definitions, suppression.suppressed))
        bar = stack.enter_context(cli.progress_bar(quiet=as_json, unit="record", desc="backfill"))
        job = stack.enter_context(tracked(settings.storage.data, "backfill"))
        work = Backfill(parts, definitions, metadata, suppression, cli.advance(bar, job))
        stack.callback(work.close)
        work.compute_ahead()
        try:
            stack.enter_context(exclusive(settings.storage.data))
            held = stack.enter_context(contextlib.ExitStack())
            states = work.hold(held)
        except StorageError as error:
            who = "the server" if settings.log.in_files else "servers and workers"
            raise StorageError(
                f"{error}\nWhat is missing is computed but for the newest records. Stop {who} "
                "and run this again: that takes moments."
            ) from error
        done = work.complete(states)
        bar.close()
    if as_json:
        cli.print_json({"computed": done})
    else:
        click.echo(f"{', '.join(done) or 'nothing'} computed from the log", err=True)


@features.command(
    "rescale",
    epilog=cli.example("tactful features rescale --topic log-32 --partitions 32 --into data-32"),
)
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
        tracked(settings.storage.data, "rescale") as job,
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
            progress=cli.advance(bar, job),
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
