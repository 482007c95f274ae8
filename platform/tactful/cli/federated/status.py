"""``tactful federated status``: progress and privacy loss of a run, by directory or reports."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import msgspec

from tactful.cli import options as cli
from tactful.cli.federated.reports import kept_rounds, quarters_answered, sent_rounds
from tactful.client import Client
from tactful.client.routes import federated as routes
from tactful.errors import ConfigError, TactfulError
from tactful.schemas.federated import FederatedRound, FederatedRun
from tactful_federated.core.plan import UNIT
from tactful_federated.errors import FederatedError, SettingsError
from tactful_federated.serving.status import RunStatus, read_status

_LATEST = 5
_TIMEOUT_S = 10.0


@click.command(
    "status",
    epilog=cli.example(
        "tactful federated status runs/intent-1",
        "tactful federated status --url https://shop.example --run intent-1",
    ),
)
@click.argument("directory", type=cli.any_directory, required=False)
@click.option("--url", help="Server of tactful that gets the reports; then without DIRECTORY.")
@click.option("--run", "name", help="Name or id of the run at --url; default: all runs.")
@click.option(
    "--key-file",
    type=cli.existing_file,
    help="File with an API key of --url, with the scope analyst; else TACTFUL_API_KEY is used.",
)
@cli.json_option
def status_command(
    directory: Path | None, url: str | None, name: str | None, key_file: Path | None, as_json: bool
) -> None:
    """Print rounds, privacy loss and state of the run in DIRECTORY, or of --url.

    It changes nothing, also while the run is led. Numbers of devices are printed as the quarter of
    those asked that answered at least.
    """
    if (directory is None) == (url is None):
        raise ConfigError("give either DIRECTORY of a training server or --url, and not both")
    if directory is None:
        assert url is not None
        _show_reported(url, name, key_file, as_json=as_json)
        return
    if name is not None or key_file is not None:
        raise ConfigError("--run and --key-file go with --url")
    with (
        cli.reported_as(TactfulError, FederatedError, PermissionError),
        cli.reported_as(ConfigError, SettingsError),
    ):
        status = read_status(directory)
    latest = _coarse(kept_rounds(directory))
    address, sent, kept = sent_rounds(directory)
    if as_json:
        reports = {"url": address, "sent": sent, "kept": kept}
        cli.print_json(asdict(status) | {"latest": latest, "reports": reports}, pretty=True)
        return
    _print(status)
    _print_rounds(latest)
    if address:
        click.echo(f"reports: {sent} of {kept} sent to {address}")


def _print(status: RunStatus) -> None:
    kind = "simulation" if status.simulated else "run"
    state = "is led by a process" if status.running else "is not led by any process"
    click.echo(f"{kind} {status.run}, tier {status.tier}: {state}")
    click.echo(f"round {status.round}: {status.releases} of {status.planned} releases")
    total = status.epsilon + status.epsilon_left
    click.echo(
        f"epsilon {status.epsilon:.3g} of {total:.3g} spent, {status.epsilon_left:.3g} left, at"
        f" delta {status.delta:g} for {UNIT}"
    )
    if status.completed_at is not None:
        at = datetime.datetime.fromtimestamp(status.completed_at, datetime.UTC)
        took = "" if status.seconds is None else f", took {status.seconds:.1f} s"
        void = f", void: {status.reason}" if status.reason else ""
        click.echo(f"last round completed {at:%Y-%m-%d %H:%M:%S} UTC{took}{void}")
    click.echo(f"next round: {_next(status)}")
    if (asked := status.evaluations) is not None:
        click.echo(
            f"evaluations: {asked.made} of {asked.planned} made, epsilon {asked.epsilon:.3g} in"
            f" addition, {asked.epsilon_left:.3g} left"
        )


def _next(status: RunStatus) -> str:
    if status.next_round == "never":
        done = "; the model is published" if status.published else ""
        return f"none, all releases of the plan are made{done}"
    needs = f"when {status.needs} devices are online"
    if status.rests:
        needs += f" that took no part in the latest {status.rests} releases"
    if status.next_round == "start":
        command = "simulate" if status.simulated else "serve"
        return (
            f"after `tactful federated {command}` is started again, with the same options; {needs}"
        )
    return f"may be under way; else {needs}"


def _show_reported(url: str, name: str | None, key_file: Path | None, *, as_json: bool) -> None:
    with Client(url, cli.api_key(key_file), tls=cli.trust(), timeout=_TIMEOUT_S) as client:
        runs = [run for page in client.pages(routes.runs()) for run in page.runs]
    found = [run for run in runs if name in (None, run.name, run.id)]
    if name is not None and not found:
        raise ConfigError(f"{url} has no report of a run {name!r}: list all without --run")
    if as_json:
        cli.print_json([_reported(run) for run in found], pretty=True)
        return
    if not found:
        click.echo("no run was reported", err=True)
    for run in found:
        kind = "simulation" if run.simulated else "run"
        why = f": {run.reason}" if run.reason else ""
        click.echo(f"{kind} {run.name} ({run.id}), tier {run.tier}: {run.state}{why}")
        last = run.last
        at = datetime.datetime.fromtimestamp(run.updated_at / 1000, datetime.UTC)
        click.echo(
            f"  round {last.number if last else 0}: {last.releases if last else 0} of"
            f" {run.plan.rounds} releases, epsilon {last.epsilon if last else 0:.3g} of"
            f" {run.plan.epsilon:.3g}, last report {at:%Y-%m-%d %H:%M:%S} UTC"
        )


def _reported(run: FederatedRun) -> dict[str, Any]:
    """Return the report of a run without numbers of devices, which a key with admin receives."""
    document: dict[str, Any] = msgspec.to_builtins(run)
    document["last"] = None if run.last is None else _coarse([run.last])[0]
    return document


def _coarse(rounds: Sequence[FederatedRound]) -> list[dict[str, Any]]:
    """Return the latest rounds, with the share that answered rounded down to quarters."""
    latest = list({figures.number: figures for figures in rounds}.values())[-_LATEST:]
    documents = []
    for figures in latest:
        document: dict[str, Any] = msgspec.to_builtins(figures)
        del document["asked"], document["reports"]
        documents.append(document | {"answered_at_least": quarters_answered(figures)})
    return documents


def _print_rounds(latest: Sequence[dict[str, Any]]) -> None:
    for figures in latest:
        share = figures["answered_at_least"]
        answered = "" if share is None else f", at least {share:.0%} of those asked answered"
        top1 = "" if figures["top1"] is None else f", top-1 {figures['top1']:.3f}"
        void = f", void: {figures['reason']}" if figures["reason"] else ""
        click.echo(f"  round {figures['number']}: {figures['seconds']:.1f} s{answered}{top1}{void}")
