"""``tactful federated simulate``: private training on generated shoppers."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

import click
import msgspec
from tqdm import tqdm

from tactful.cli.federated.options import WidthOptions, width_options, widths_of
from tactful.errors import ConfigError, TactfulError
from tactful_federated.core.private_training import Outcome
from tactful_federated.errors import CheckpointError, MissingExtraError, SettingsError
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE
from tactful_federated.simulation.private import PrivateSimulationSettings, Tier, simulate_privately


@click.command("simulate")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--devices", type=click.IntRange(10), default=2_000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True)
@click.option("--report-goal", type=click.IntRange(3), default=200, show_default=True)
@click.option(
    "--epsilon",
    type=float,
    default=8.0,
    show_default=True,
    help="Privacy budget epsilon of the whole run.",
)
@click.option(
    "--tier",
    type=click.Choice(["clear", "secret", "noise-in-sum"]),
    default="clear",
    show_default=True,
    help="What the server sees.",
)
@click.option(
    "--seed",
    type=int,
    default=7,
    show_default=True,
    help="Seed of the shoppers and the first weights.",
)
@click.option(
    "--ray",
    "ray_workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Number of Ray workers that train; 0: train in this process.",
)
@width_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def simulate_command(
    directory: Path,
    devices: int,
    rounds: int,
    report_goal: int,
    epsilon: float,
    tier: Tier,
    seed: int,
    ray_workers: int,
    as_json: bool,
    **options: Unpack[WidthOptions],
) -> None:
    """Train privately on simulated shoppers; a restart resumes the run in DIRECTORY."""
    widths = widths_of(options, SAMPLE_CATALOGUE)
    with tqdm(total=rounds, unit="round", disable=not sys.stderr.isatty()) as bar:

        def show(outcome: Outcome) -> None:
            bar.update(outcome.releases - bar.n)

        try:
            found = simulate_privately(
                directory,
                PrivateSimulationSettings(
                    devices=devices,
                    rounds=rounds,
                    report_goal=report_goal,
                    epsilon=epsilon,
                    tier=tier,
                    seed=seed,
                    ray_workers=ray_workers,
                    **widths,
                ),
                progress=show,
            )
        except SettingsError as error:
            raise ConfigError(str(error)) from error
        except (CheckpointError, MissingExtraError) as error:
            raise TactfulError(str(error)) from error
    if as_json:
        document = asdict(found)
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
        return
    plan = found.plan
    click.echo(f"epsilon {plan.epsilon:g} at delta {plan.delta:g} for {plan.unit}")
    click.echo(f"{found.releases} of {plan.rounds} releases, {found.void} void rounds")
    for name, score in (("before", found.before), ("after", found.after)):
        click.echo(f"{name:6} loss {score.mean_loss:.3f}, top-1 {score.top1_rate:.3f}")
