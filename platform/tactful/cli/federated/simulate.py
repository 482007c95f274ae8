"""``tactful federated simulate``: private training on generated shoppers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.cli.federated.mlflow_runs import FederatedRuns
from tactful.cli.federated.options import Results, Widths, tier_choice, width_options
from tactful.cli.federated.reports import Receiver, RunReporter, plan_of, report_options
from tactful.errors import ConfigError, TactfulError
from tactful.schemas.federated import FederatedRound
from tactful.util.clock import now_ms
from tactful_federated.core.plan import TrainingPlan
from tactful_federated.core.private_training import Outcome
from tactful_federated.errors import (
    CheckpointError,
    FederatedError,
    MissingExtraError,
    SettingsError,
)
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import parameter_count
from tactful_federated.serving.status import read_status
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
@click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    help="MLflow store that gets each round; without it, or MLFLOW_TRACKING_URI, none.",
)
@report_options
@cli.json_option
@cli.grouped("settings", PrivateSimulationSettings)
@cli.grouped("results", Results)
def simulate_command(
    directory: Path,
    settings: PrivateSimulationSettings,
    widths: Widths,
    receiver: Receiver,
    results: Results,
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
        if receiver.report is not None or results.tracking_uri is not None:
            watch = _watching(directory, settings, receiver, results.tracking_uri, stack)
        found = simulate_privately(directory, settings, progress=show, watch=watch)
    if results.as_json:
        cli.print_json(asdict(found), pretty=True)
        return
    plan = found.plan
    click.echo(f"epsilon {plan.epsilon:g} at delta {plan.delta:g} for {plan.unit}")
    click.echo(f"{found.releases} of {plan.rounds} releases, {found.void} void rounds")
    for name, score in (("before", found.before), ("after", found.after)):
        click.echo(f"{name:6} loss {score.mean_loss:.3f}, top-1 {score.top1_rate:.3f}")


def _watching(
    directory: Path,
    settings: PrivateSimulationSettings,
    receiver: Receiver,
    tracking_uri: str | None,
    stack: contextlib.ExitStack,
) -> Callable[[SimulatedRound], None]:
    """Return a callback that reports and logs each round, until the stack ends."""
    tokens = Vocabulary.from_catalogue(SAMPLE_CATALOGUE).size
    parameters = parameter_count(tokens, embedding=settings.embedding, hidden=settings.hidden)
    plan, name = settings.plan(parameters), directory.absolute().name[:200] or "simulation"
    reporter = receiver.open(
        directory, name=name, tier=settings.tier, simulated=True, plan=plan_of(plan)
    )
    with contextlib.suppress(FederatedError):  # a damaged run is refused when it is opened
        reporter.add_lost(read_status(directory))
    log = None
    if tracking_uri is not None:
        log = stack.enter_context(_logging(directory, settings, plan, tracking_uri, reporter))
    stack.enter_context(reporter)

    def watch(seen: SimulatedRound) -> None:
        outcome, score = seen.outcome, seen.score
        figures = FederatedRound(
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
        reporter.add(figures)
        if log is not None:
            log(figures, outcome.noisy_norm)

    return watch


@contextlib.contextmanager
def _logging(
    directory: Path,
    settings: PrivateSimulationSettings,
    plan: TrainingPlan,
    tracking_uri: str,
    reporter: RunReporter,
) -> Iterator[Callable[[FederatedRound, float | None], None]]:
    """Yield a function that logs a round to MLflow; at the end of the simulation, end its run."""
    runs = FederatedRuns(directory, tracking_uri=tracking_uri)
    names = ("tier", "devices", "seed", "embedding", "hidden")
    chosen = {name: getattr(settings, name) for name in names}
    run = runs.begin_simulation(directory.absolute().name, plan, **chosen)
    with runs.failing(run):
        runs.resume(run, reporter.rounds)
        yield functools.partial(runs.show, run)
    runs.show_plot(run, reporter.rounds)
    runs.end(run)
