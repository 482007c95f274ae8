"""Commands around the tuner of objective weights: ``tactful tuner train`` and ``show``."""

from __future__ import annotations

from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.experiments.tuner import evaluate_tuner, read_probed, train_in_simulator, write_probe
from tactful.rerank.tuned_objective import Tuner
from tactful.subjects.consented_log import measured_log
from tactful.util.clock import now_ms

_HOUR = 3_600_000


@click.group()
def tuner() -> None:
    """Train and evaluate models that set objective weights by the situation."""


@tuner.command("train", epilog=cli.example("tactful tuner train tuners/first --hours 4000"))
@click.argument("directory", type=cli.any_directory)
@click.option("--hours", type=click.IntRange(min=500), default=4_000)
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option(
    "--rivals/--no-rivals",
    default=True,
    help="Also train the best fixed and the best linear weights for comparison.",
)
@cli.json_option
def train(directory: Path, hours: int, seed: int, rivals: bool, as_json: bool) -> None:
    """Train a tuner in the simulated shop and write it to DIRECTORY.

    The printed figures come from other simulated shops; they show that the tuner learns, and
    nothing about users. A rollout measures users: `change: {tuner: DIRECTORY}`.
    """
    figures = train_in_simulator(directory, hours=hours, seed=seed, rivals=rivals)
    if as_json:
        cli.print_json(figures)
        return
    for name, value in figures.items():
        click.echo(f"  {name:<24} {value:.4f}")
    click.echo("All of it in a simulator.", err=True)


@tuner.command("show", epilog=cli.example("tactful tuner show tuners/first"))
@click.argument("directory", type=cli.existing_directory)
@cli.json_option
def show(directory: Path, as_json: bool) -> None:
    """Show the weights that the tuner in DIRECTORY sets now; null: the champion's."""
    objective = Tuner(directory).objective(now_ms())
    told = None if objective is None else objective.nonzero_weights()
    if as_json:
        cli.print_json(told)
    elif told is None:
        click.echo("The champion's weights hold: signals are missing, old, or out of range.")
    elif not told:
        click.echo("All weights are 0: items are ordered by relevance alone.")
    else:
        for name, weight in told.items():
            click.echo(f"  {name:<12} {weight:.3f}")


@tuner.command("probe", epilog=cli.example("tactful tuner probe tuners/first tuners/probe"))
@click.argument("candidate", type=cli.existing_directory)
@click.argument("directory", type=cli.any_path)
@click.option("--noise", type=click.FloatRange(0.01, 1), default=0.2)
@cli.json_option
def probe(candidate: Path, directory: Path, noise: float, as_json: bool) -> None:
    """Write a probe for CANDIDATE to DIRECTORY: its champion's weights with random noise.

    Roll it out to a few users; `evaluate` reads the effect of CANDIDATE from its recommendations.
    """
    write_probe(candidate, directory, noise=noise)
    if as_json:
        cli.print_json({"directory": str(directory.resolve()), "noise": noise})
        return
    click.echo(f"Roll it out with change: {{tuner: {directory.resolve()}}}", err=True)


@tuner.command(
    "evaluate",
    epilog=cli.example("tactful tuner evaluate tuners/first --probe tuners/probe --key probe"),
)
@click.argument("candidate", type=cli.existing_directory)
@cli.with_settings
@click.option("--probe", required=True, type=cli.existing_directory, help="Directory of the probe.")
@click.option("--key", required=True, help="Key of the probe's rollout.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), default=28.0)
@cli.outcome_option
@cli.outcome_hours_option
@cli.json_option
def evaluate(
    settings: Settings,
    candidate: Path,
    probe: Path,
    key: str,
    days: float,
    outcomes: tuple[str, ...],
    outcome_hours: float,
    as_json: bool,
) -> None:
    """Evaluate CANDIDATE on recommendations of its probe, and store the verdict with it.

    A rollout with `evaluated: true` starts its canary only if the verdict is "better".
    """
    now = now_ms()
    with measured_log(settings, clock=lambda: now) as log:
        lists = read_probed(
            log,
            key,
            since=now - int(days * 24 * _HOUR),
            until=now,
            types=outcomes,
            lasts=int(outcome_hours * _HOUR),
        )
    found = evaluate_tuner(candidate, lists, noise=Tuner(probe).manifest.noise)
    if as_json:
        cli.print_json(found)
        return
    click.echo(f"{found.verdict}: {found.gain:+.4f} [{found.low:+.4f}, {found.high:+.4f}] of lists")
    for reason in found.reasons:
        click.echo(f"  {reason}")
