"""Commands around feature definitions: ``tactful features check``, ``plan`` and ``backfill``.

``tactful features rescale`` is in a module of its own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from tqdm import tqdm

from tactful.cli.options import json_option
from tactful.config.load import load_settings
from tactful.errors import ConfigError, StorageError, TactfulError
from tactful.maintenance.backfill import Backfill, unfinished
from tactful.maintenance.backfill_targets import opened_parts, require_state
from tactful.metadata.connections import open_installation
from tactful.metadata.directory_lock import exclusive
from tactful.subjects.suppression import open_suppression
from tactful.util.clock import now_ms
from tactful.util.lazy_commands import LazyCommand, LazyGroup
from tactful_streaming.definitions.model import dump_definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.schema_evolution import EvolutionPlan, plan_evolution
from tactful_streaming.errors import DefinitionError, StreamingError
from tactful_streaming.patterns.factory import make_operators

_COMMANDS = {
    "rescale": LazyCommand(
        "tactful.cli.rescale:rescale",
        "Move the state of workers to a log with another number of partitions.",
    )
}


def _state_options(command: Any) -> Any:
    """Add the options of commands that read a data directory."""
    for option in (
        click.option("--data", type=click.Path(path_type=Path), help="Data directory."),
        click.option("--config", type=click.Path(path_type=Path), help="Settings file."),
        click.option(
            "--features",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Definitions to plan for; by default those of the settings.",
        ),
    ):
        command = option(command)
    return command


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def features() -> None:
    """Check feature definitions, and migrate a state to changed definitions."""


@features.command("check")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def check(file: Path, as_json: bool) -> None:
    """Check the definitions in FILE; the first error is printed with its line."""
    definitions = _definitions(file)
    try:
        make_operators(definitions)  # a sequence may need too many states
    except DefinitionError as error:
        raise ConfigError(f"{file}: {error}") from error
    if as_json:
        _print_json(
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


@features.command("plan")
@_state_options
@json_option
def plan(features: Path | None, config: Path | None, data: Path | None, as_json: bool) -> None:
    """Print the effect of changed definitions on the state; changes nothing."""
    settings = load_settings(config, overrides={"storage.data": data})
    definitions = _definitions(features or settings.features)
    plans: list[EvolutionPlan] = []
    with _explained(), opened_parts(settings, definitions) as parts:
        for part in parts:
            with contextlib.closing(part.read()) as state:
                plans.append(plan_evolution(state, part.definitions, begin=part.begin))
    begun = unfinished(settings, definitions)
    planned = _together(plans)
    records = sum(plan.records for plan in plans)
    if as_json:
        _print_json(
            {
                **msgspec.to_builtins(planned),
                "records": records,
                "states": len(plans),
                "backfills": msgspec.to_builtins(begun),
            }
        )
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


@features.command("backfill")
@_state_options
@json_option
def backfill(features: Path | None, config: Path | None, data: Path | None, as_json: bool) -> None:
    """Compute missing features from the log; run it again to resume.

    Servers and workers with the old definitions may be running; only the last step, the merge,
    needs them stopped.
    """
    settings = load_settings(config, overrides={"storage.data": data})
    definitions = _definitions(features or settings.features)
    require_state(settings)
    with _explained(), contextlib.ExitStack() as stack:
        metadata = stack.enter_context(contextlib.closing(open_installation(settings)))
        suppression = open_suppression(settings, metadata, clock=now_ms)
        parts = stack.enter_context(opened_parts(settings, definitions, suppression.suppressed))
        bar = stack.enter_context(
            tqdm(unit="record", disable=as_json or not sys.stderr.isatty(), desc="backfill")
        )

        def progress(reached: int, wanted: int) -> None:
            bar.total = wanted
            bar.update(reached - bar.n)

        work = Backfill(parts, definitions, metadata, suppression, progress)
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
        _print_json({"computed": done})
    else:
        click.echo(f"{', '.join(done) or 'nothing'} computed from the log", err=True)


def _definitions(file: Path) -> Any:
    try:
        return load_definitions(file)
    except DefinitionError as error:
        raise ConfigError(str(error)) from error


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Convert errors of the streaming package into errors of this package."""
    try:
        yield
    except StreamingError as error:
        raise TactfulError(str(error)) from error


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.encode(value))
