"""Commands around the tuner of objective weights: ``tactful tuner train`` and ``show``."""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from tactful.command_options import json_option


@click.group()
def tuner() -> None:
    """Train what sets objective weights by the situation, and see what it would do now."""


@tuner.command("train")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--hours", type=click.IntRange(min=500), default=4_000, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--rivals/--no-rivals",
    default=True,
    show_default=True,
    help="Train the best fixed and the best linear weights beside it.",
)
@json_option
def train(directory: Path, hours: int, seed: int, rivals: bool, as_json: bool) -> None:
    """Train a tuner in the simulated shop and write it to DIRECTORY.

    What is printed was measured in simulated shops that nothing learnt in; it says that the tuner
    learns, and nothing about people. Those a rollout asks: `change: {tuner: DIRECTORY}`.
    """
    from tactful.tuner_training import train_in_simulator

    figures = train_in_simulator(directory, hours=hours, seed=seed, rivals=rivals)
    if as_json:
        click.echo(msgspec.json.encode(figures))
        return
    for name, value in figures.items():
        click.echo(f"  {name:<24} {value:.4f}")
    click.echo("All of it in a simulator.", err=True)


@tuner.command("show")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def show(directory: Path, as_json: bool) -> None:
    """Say which weights the tuner in DIRECTORY sets now; null where the champion's hold."""
    from tactful.tuner_serving import Tuner

    objective = Tuner(directory).objective(time.time_ns() // 1_000_000)
    told = None if objective is None else objective.told()
    if as_json:
        click.echo(msgspec.json.encode(told))
    elif told is None:
        click.echo("The champion's weights hold: signals are missing, old, or out of range.")
    else:
        for name, weight in told.items():
            click.echo(f"  {name:<12} {weight:.3f}")
