"""Commands that define, move and show rollouts; they belong to ``tactful experiment``."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.errors import ConfigError, StorageError
from tactful.experiment_metrics.definitions import load_metrics
from tactful.experiment_metrics.own_guardrails import check_own
from tactful.experiments.baseline import ExactOutcomes
from tactful.experiments.definitions import load_rollouts
from tactful.experiments.messages import details, move, rollout_info
from tactful.experiments.planning import Given, Planner, forecast_words
from tactful.experiments.store import RolloutStore
from tactful.metadata.connections import open_installation
from tactful.models.audit_log import login_and_host
from tactful.models.record_rollout import record
from tactful.subjects.consented_log import PermittedLog, measured_partitions
from tactful.util.clock import now_ms

rate_option = click.option(
    "--rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of people who take something, instead of the outcomes of the last 28 days.",
)


@click.command(
    "apply", epilog=cli.example("tactful experiment apply rollouts.yaml --reason 'new model'")
)
@cli.with_settings
@cli.json_option
@cli.reason_option
@cli.by_option
@cli.people_per_day_option
@rate_option
@click.argument("file", type=cli.existing_file)
def apply_command(
    settings: Settings,
    as_json: bool,
    reason: str,
    by: str | None,
    people_per_day: float | None,
    rate: float | None,
    file: Path,
) -> None:
    """Store the rollouts in FILE, and start those that ask for it.

    A rollout that would find a harmful change with a probability below 0.8 is refused, unless its
    definition has the reason in `accept_low_power`: see `tactful experiment plan FILE`.
    """
    found = load_rollouts(file)
    given = Given(people_per_day, rate)
    applied: list[dict[str, object]] = []
    with _planner(settings) as planner:
        for definition in found:
            changed, planned = planner.apply(
                definition,
                by=by or login_and_host(),
                reason=reason or f"applied from {file.name}",
                given=given,
            )
            applied.append({"key": definition.key, "changed": changed, "forecast": planned})
            if as_json:
                continue
            click.echo(f"{definition.key}: {'applied' if changed else 'as it was'}")
            for words in forecast_words(planned) if planned else ():
                click.echo(f"  {words}")
    if as_json:
        cli.print_json(applied)
    elif not found:
        click.echo(f"{file} has no rollouts.", err=True)


def print_forecasts(
    settings: Settings,
    file: Path,
    people_per_day: float | None,
    rate: float | None,
    *,
    as_json: bool,
) -> None:
    """Print the forecasts of the rollouts in a file."""
    with _planner(settings) as planner:
        planned = [
            planner.forecast(definition, Given(people_per_day, rate))
            for definition in load_rollouts(file)
        ]
    if as_json:
        cli.print_json(planned)
        return
    for each in planned:
        accepted = "" if each.accepted is None else f", accepted: {each.accepted}"
        click.echo(f"{each.key}: {'enough power' if each.enough else f'low power{accepted}'}")
        for words in forecast_words(each):
            click.echo(f"  {words}")


@click.command("list", epilog=cli.example("tactful experiment list"))
@cli.with_settings
@cli.json_option
def list_command(settings: Settings, as_json: bool) -> None:
    """List the rollouts with their states."""
    with _rollouts(settings) as store:
        found = [rollout_info(each) for each in store.all()]
    if as_json:
        cli.print_json(found)
        return
    if not found:
        click.echo("There are no rollouts: `tactful experiment apply FILE` makes some.", err=True)
    for each in found:
        state = each.state if each.decision is None else f"{each.state}: {each.decision}"
        archived = "  archived" if each.archived else ""
        click.echo(f"{each.key}  {state}  {each.share:.2%}  {each.looks} looks{archived}")


@click.command("show", epilog=cli.example("tactful experiment show new-model"))
@cli.with_settings
@click.argument("key")
@cli.json_option
def show_command(settings: Settings, key: str, as_json: bool) -> None:
    """Show state, history and looks of the rollout KEY."""
    with _rollouts(settings) as store:
        stored = store.find(key)
        if stored is None:
            raise ConfigError(f"there is no rollout {key!r}")
        found = details(store, stored)
    if as_json:
        cli.print_json(found)
        return
    click.echo(f"{found.rollout.key}  {found.rollout.state}  {found.rollout.share:.2%}")
    for line in found.history:
        at = dt.datetime.fromtimestamp(line.at / 1000, dt.UTC)
        click.echo(
            f"{at:%Y-%m-%d %H:%M:%S}Z  {line.action}  {line.share:.2%}  {line.changed_by}  "
            f"{line.reason}".rstrip()
        )
    for look in found.looks:
        verdicts = ", ".join(f"{metric} {said}" for metric, said in look.guardrails.items())
        click.echo(f"look {look.number}, stage {look.stage}: {look.sample_ratio}; {verdicts}")
    if found.reason:
        click.echo(f"now: {found.reason}")


def _mover(name: str, words: str, *options: Any) -> click.Command:
    """Return a command for one of the steps of `tactful.experiments.messages.move`."""

    def work(
        settings: Settings,
        key: str,
        reason: str,
        by: str | None,
        as_json: bool,
        decision: str | None = None,
    ) -> None:
        with _rollouts(settings) as store:
            after = move(
                store, key, name, by=by or login_and_host(), reason=reason, decision=decision
            )
        now = rollout_info(after)
        if as_json:
            cli.print_json(now)
            return
        state = f"{now.state} and archived" if now.archived else now.state
        click.echo(f"{key} is {state}, {now.share:.2%} get it", err=True)

    reason_required = click.option("--reason", required=True, help="Reason, for the audit log.")
    shared = (cli.with_settings, reason_required, cli.by_option, click.argument("key"))
    more = " --decision ship" if name == "decide" else ""
    shown = cli.example(f"tactful experiment {name} new-model{more} --reason 'as planned'")
    decorated = cli.with_options(*options, *shared, cli.json_option)(work)
    return click.command(name, help=words, epilog=shown)(decorated)


shadow_command = _mover("shadow", "Start the shadow of the rollout KEY alone.")
start_command = _mover("start", "Start the first stage of the rollout KEY.")
advance_command = _mover(
    "advance", "Start the first stage of KEY after its shadow, or continue after a hold."
)
hold_command = _mover(
    "hold", "Hold KEY in its stage, which `advance` begins again; harm still rolls back."
)
rollback_command = _mover("rollback", "End KEY and serve everybody as before it.")
decide_command = _mover(
    "decide",
    "End KEY by hand before its last stage is over.",
    click.option(
        "--decision",
        type=click.Choice(["ship", "keep", "inconclusive"]),
        required=True,
        help="Whether the change replaces what was.",
    ),
)
archive_command = _mover("archive", "Archive KEY, which has ended; its change is no longer served.")


@click.command("record", epilog=cli.example("tactful experiment record new-model"))
@cli.with_settings
@click.argument("key")
@cli.json_option
def record_command(settings: Settings, key: str, as_json: bool) -> None:
    """Record the end of the rollout KEY in MLflow; a shipped model becomes the champion."""
    with _rollouts(settings) as store:
        run_id = record(store, settings, key)
    if as_json:
        cli.print_json({"key": key, "run_id": run_id})
    else:
        click.echo(run_id)


@contextlib.contextmanager
def _planner(settings: Settings) -> Iterator[Planner]:
    """Open the rollouts and, for forecasts, the log where there is one."""
    with _rollouts(settings) as store, contextlib.ExitStack() as stack:

        def logs() -> list[PermittedLog]:
            try:
                return stack.enter_context(measured_partitions(settings, clock=now_ms))
            except StorageError as error:
                click.echo(f"no recommendations were read: {error}", err=True)
                return []

        yield Planner(
            store,
            ExactOutcomes(logs),
            clock=now_ms,
            check=lambda definition: check_own(
                definition, load_metrics(settings.experiment_metrics)
            ),
        )


@contextlib.contextmanager
def _rollouts(settings: Settings) -> Iterator[RolloutStore]:
    with contextlib.closing(open_installation(settings)) as metadata:
        yield RolloutStore(metadata, clock=now_ms)
