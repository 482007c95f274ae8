"""Commands around the tuner of objective weights: train, show, plan, probe and evaluate."""

from __future__ import annotations

from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.experiments.tuner import evaluate_tuner, plan_probe, read_probed, write_probe
from tactful.experiments.tuner_training import train_in_environment, train_in_simulator
from tactful.rerank.tuned_objective import Tuner
from tactful.subjects.consented_log import measured_log
from tactful.util.clock import now_ms

_HOUR = 3_600_000
_TAKEN, _CHANGE = 0.1, 0.05
_PLANNED_NOISE = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


@click.group()
def tuner() -> None:
    """Train and evaluate models that set objective weights by the situation."""


@tuner.command("train", epilog=cli.example("tactful tuner train tuners/first --hours 4000"))
@click.argument("directory", type=cli.any_directory)
@click.option("--hours", type=click.IntRange(min=500), default=4_000, help="Simulated hours.")
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option(
    "--rivals/--no-rivals",
    default=True,
    help="Also find the best fixed and the best linear weights; the better result is written.",
)
@click.option(
    "--market",
    type=click.Choice(["default", "elastic", "sales", "saturated"]),
    default="default",
    help="Simulated market.",
)
@click.option(
    "--environment",
    default="",
    show_default=False,
    help="Learn in your own gymnasium environment instead: module:factory.",
)
@click.option(
    "--steps", type=click.IntRange(min=1_000), default=20_000, help="Steps in your own environment."
)
@cli.json_option
def train(
    directory: Path,
    hours: int,
    seed: int,
    rivals: bool,
    market: str,
    environment: str,
    steps: int,
    as_json: bool,
) -> None:
    """Train a tuner in a simulated shop and write it to DIRECTORY.

    The printed figures come from other simulated shops; they show that the tuner learns, and
    nothing about users. A rollout measures users: `change: {tuner: DIRECTORY}`. If the best fixed
    weights are as good, DIRECTORY holds those. A training in your own environment continues after
    an interruption.
    """
    with cli.progress_bar(quiet=as_json, desc=environment or market, unit="step") as bar:
        if environment:
            result = train_in_environment(
                directory,
                environment,
                steps=steps,
                seed=seed,
                rivals=rivals,
                progress=cli.advance(bar),
            )
        else:
            result = train_in_simulator(
                directory,
                hours=hours,
                seed=seed,
                rivals=rivals,
                market=market,
                progress=cli.advance(bar),
            )
    if as_json:
        cli.print_json({**result.figures, "verdict": result.verdict, "fixed": result.fixed})
        return
    for name, value in result.figures.items():
        click.echo(f"  {name:<26} {value:.4f}")
    fixed = ", ".join(f"{name} {value:.3f}" for name, value in result.fixed.items())
    if result.verdict == "fixed":
        click.echo(f"Use these fixed weights, the tuner is not better beyond noise: {fixed}")
    elif result.verdict:
        click.echo(f"The tuner is better than the best fixed weights beyond noise: {fixed}")
    where = environment or "a simulator"
    click.echo(f"All of it in {where}.", err=True)


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
    plan = plan_probe(candidate, noise=noise, taken=_TAKEN, change=_CHANGE)
    if as_json:
        cli.print_json(
            {"directory": str(directory.resolve()), "noise": noise, "needed": plan.lists}
        )
        return
    click.echo(f"Roll it out with change: {{tuner: {directory.resolve()}}}", err=True)
    click.echo(
        f"A change of {_CHANGE:.0%} needs {plan.lists:,} recommendations if something is taken "
        f"from {_TAKEN:.0%}: see tactful tuner plan.",
        err=True,
    )


@tuner.command("plan", epilog=cli.example("tactful tuner plan tuners/first --taken 0.12"))
@click.argument("candidate", type=cli.existing_directory)
@click.option(
    "--taken",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=_TAKEN,
    help="Share of recommendations from which something is taken.",
)
@click.option(
    "--change",
    type=click.FloatRange(0, 1, min_open=True),
    default=_CHANGE,
    help="Relative change of that share that is to be seen.",
)
@cli.json_option
def plan(candidate: Path, taken: float, change: float, as_json: bool) -> None:
    """Compute how many recommendations a probe needs to evaluate CANDIDATE, by its noise.

    Less noise keeps the probe near the champion; more makes its recommendations count for a
    candidate that is far from it.
    """
    plans = [
        plan_probe(candidate, noise=noise, taken=taken, change=change) for noise in _PLANNED_NOISE
    ]
    if as_json:
        cli.print_json({"change": change, "taken": taken, "plans": plans})
        return
    click.echo(f"To see a change of {change:.0%} of {taken:.1%}, with a probability of 80 %:")
    for each in plans:
        click.echo(
            f"  noise {each.noise:<4g}  {each.lists:>22,} recommendations "
            f"(20,000 say as much as {20_000 * each.effective_share:,.0f} of its own)"
        )


@tuner.command(
    "evaluate",
    epilog=cli.example("tactful tuner evaluate tuners/first --probe tuners/probe --key probe"),
)
@click.argument("candidate", type=cli.existing_directory)
@cli.with_settings
@click.option("--probe", required=True, type=cli.existing_directory, help="Directory of the probe.")
@click.option("--key", required=True, help="Key of the probe's rollout.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), default=28.0)
@click.option(
    "--change",
    type=click.FloatRange(0, 1, min_open=True),
    default=_CHANGE,
    help="Planned relative change; with fewer recommendations than it needs, no verdict.",
)
@cli.outcome_option
@cli.outcome_hours_option
@cli.json_option
def evaluate(
    settings: Settings,
    candidate: Path,
    probe: Path,
    key: str,
    days: float,
    change: float,
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
    found = evaluate_tuner(candidate, lists, noise=Tuner(probe).manifest.noise, change=change)
    if as_json:
        cli.print_json(found)
        return
    click.echo(f"{found.verdict}: {found.gain:+.4f} [{found.low:+.4f}, {found.high:+.4f}] of lists")
    for reason in found.reasons:
        click.echo(f"  {reason}")
