"""``tactful federated simulate``: private training on generated shoppers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.cli.federated.options import Widths, tier_choice, width_options
from tactful.cli.federated.reports import Receiver, plan_of, report_options
from tactful.errors import ConfigError, TactfulError
from tactful.schemas.federated import FederatedRound
from tactful.util.clock import now_ms
from tactful_federated.core.private_training import Outcome
from tactful_federated.errors import CheckpointError, MissingExtraError, SettingsError
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import parameter_count
from tactful_federated.simulation.private import (
    PrivateSimulationSettings,
    SimulatedRound,
    simulate_privately,
)


@click.command("simulate", epilog=cli.example("tactful federated simulate runs/first --rounds 30"))
@click.argument("directory", type=cli.any_directory)
@click.option("--devices", type=click.IntRange(10), default=2_000)
@click.option("--rounds", type=click.IntRange(1), default=30)
@click.option("--report-goal", type=click.IntRange(3), default=200)
@click.option("--epsilon", default=8.0, help="Privacy budget epsilon of the whole run.")
@click.option("--tier", type=tier_choice, default="clear", help="What the server sees.")
@click.option("--seed", default=7, help="Seed of the shoppers and the first weights.")
@click.option(
    "--ray",
    "ray_workers",
    type=click.IntRange(0),
    default=0,
    help="Number of Ray workers that train; 0: train in this process.",
)
@width_options
@report_options
@cli.json_option
@cli.grouped("settings", PrivateSimulationSettings)
def simulate_command(
    directory: Path,
    settings: PrivateSimulationSettings,
    widths: Widths,
    receiver: Receiver,
    as_json: bool,
) -> None:
    """Train privately on simulated shoppers; a restart resumes the run in DIRECTORY."""
    widths.check(SAMPLE_CATALOGUE)
    settings = replace(settings, **asdict(widths))
    with (
        cli.progress_bar(total=settings.rounds, unit="round") as bar,
        cli.reported_as(ConfigError, SettingsError),
        cli.reported_as(TactfulError, CheckpointError, MissingExtraError),
        contextlib.ExitStack() as stack,
    ):

        def show(outcome: Outcome) -> None:
            bar.update(outcome.releases - bar.n)

        watch = None
        if receiver.report is not None:
            watch = _reporting(directory, settings, widths, receiver, stack)
        found = simulate_privately(directory, settings, progress=show, watch=watch)
    if as_json:
        cli.print_json(asdict(found), pretty=True)
        return
    plan = found.plan
    click.echo(f"epsilon {plan.epsilon:g} at delta {plan.delta:g} for {plan.unit}")
    click.echo(f"{found.releases} of {plan.rounds} releases, {found.void} void rounds")
    for name, score in (("before", found.before), ("after", found.after)):
        click.echo(f"{name:6} loss {score.mean_loss:.3f}, top-1 {score.top1_rate:.3f}")


def _reporting(
    directory: Path,
    settings: PrivateSimulationSettings,
    widths: Widths,
    receiver: Receiver,
    stack: contextlib.ExitStack,
) -> Callable[[SimulatedRound], None]:
    """Return a callback that reports each round, until the stack ends."""
    tokens = Vocabulary.from_catalogue(SAMPLE_CATALOGUE).size
    parameters = parameter_count(tokens, embedding=widths.embedding, hidden=widths.hidden)
    reporter = receiver.open(
        directory,
        name=directory.name[:200] or "simulation",
        tier=settings.tier,
        simulated=True,
        plan=plan_of(settings.plan(parameters)),
    )
    stack.enter_context(reporter)

    def watch(seen: SimulatedRound) -> None:
        outcome, score = seen.outcome, seen.score
        reporter.add(
            FederatedRound(
                number=outcome.round,
                at=now_ms(),
                releases=outcome.releases,
                epsilon=round(seen.epsilon, 6),
                seconds=round(seen.seconds, 3),
                reason=outcome.reason,
                asked=outcome.asked,
                reports=outcome.reports,
                top1=score.top1_rate,
                top5=score.top5_rate,
                loss=score.mean_loss,
            )
        )

    return watch
