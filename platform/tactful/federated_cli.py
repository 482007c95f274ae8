"""Commands around the model that learns on devices: ``tactful federated …``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click
import msgspec
from tqdm import tqdm

from tactful.errors import ConfigError, TactfulError
from tactful.federated_evaluation_cli import evaluate_command
from tactful.federated_fleet_cli import device_command, enrol_command, serve_command
from tactful.federated_intent_cli import intent_command
from tactful.federated_options import (
    CohortOptions,
    WidthOptions,
    cohort_options,
    width_options,
    widths_of,
    wishes_of,
)

if TYPE_CHECKING:
    from tactful_federated import Outcome
    from tactful_federated.private_simulation import Tier


@click.group()
def federated() -> None:
    """Plan private training on devices, simulate it, and do it."""


for _command in (
    serve_command,
    enrol_command,
    device_command,
    evaluate_command,
    intent_command,
):
    federated.add_command(_command)


@federated.command("plan")
@click.option("--epsilon", type=float, default=2.0, show_default=True, help="For the whole run.")
@click.option("--rounds", type=click.IntRange(1), default=500, show_default=True)
@cohort_options
@click.option("--update-norm", type=float, default=2.0, show_default=True)
@click.option("--parameters", type=click.IntRange(1), default=20_000, show_default=True)
@click.option("--bands", type=click.IntRange(1), default=64, show_default=True, help="At most.")
@click.option(
    "--curvature",
    type=click.FloatRange(0),
    help="Of the loss, to foresee what the noise costs; default: as measured on a shop's data.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan_command(
    epsilon: float,
    rounds: int,
    update_norm: float,
    parameters: int,
    bands: int,
    curvature: float | None,
    as_json: bool,
    **cohort: Unpack[CohortOptions],
) -> None:
    """Say what a private training run costs and loses, before it begins."""
    from tactful_federated import SettingsError, plan_training
    from tactful_federated.curvature import CURVATURE

    try:
        plan = plan_training(
            wishes_of(
                cohort,
                epsilon=epsilon,
                rounds=rounds,
                update_norm=update_norm,
                parameters=parameters,
                most_bands=bands,
            )
        )
    except SettingsError as error:
        raise ConfigError(str(error)) from error
    loss = plan.expected_loss(CURVATURE if curvature is None else curvature)
    if as_json:
        document = asdict(plan) | {"expected_loss": loss}
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
        return
    rows = [
        ("promise", f"epsilon {plan.epsilon:g} at delta {plan.delta:g}; rho {plan.rho:.4g}"),
        ("unit", plan.unit),
        ("rounds", f"{plan.rounds}, each asking {plan.cohort} devices for {plan.report_goal}"),
        ("released from", f"{plan.minimum_reports} reports on"),
        ("a device joins", f"{plan.participations} times at most, {plan.separation} rounds apart"),
        ("noise multiplier", f"{plan.noise_multiplier:.4f}, {plan.bands} bands"),
        ("noise of a step", f"{plan.step_noise:.3g} on each parameter"),
        ("noise of the model", f"{plan.model_noise:.3g} on each parameter"),
        ("were it independent", f"{plan.independent_model_noise:.3g}"),
        ("expected loss", f"+{loss:.3g} nats, to second order"),
    ]
    for name, text in rows:
        click.echo(f"{name:20} {text}")


@federated.command("simulate")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--devices", type=click.IntRange(10), default=2_000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True)
@click.option("--report-goal", type=click.IntRange(3), default=200, show_default=True)
@click.option("--epsilon", type=float, default=8.0, show_default=True, help="For the whole run.")
@click.option(
    "--tier",
    type=click.Choice(["clear", "secret", "noise-in-sum"]),
    default="clear",
    show_default=True,
    help="What the server sees.",
)
@click.option("--seed", type=int, default=7, show_default=True, help="Of shoppers and weights.")
@click.option(
    "--ray",
    "ray_workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Ray's workers that train; 0: none, in this process.",
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
    """Train privately on generated shoppers; started again, it goes on in DIRECTORY."""
    from tactful_federated import (
        CheckpointError,
        MissingExtraError,
        SettingsError,
        simulate_privately,
    )
    from tactful_federated.sample import SAMPLE_CATALOGUE

    widths = widths_of(options, SAMPLE_CATALOGUE)
    with tqdm(total=rounds, unit="round", disable=not sys.stderr.isatty()) as bar:

        def show(outcome: Outcome) -> None:
            bar.update(outcome.releases - bar.n)

        try:
            found = simulate_privately(
                directory,
                devices=devices,
                rounds=rounds,
                report_goal=report_goal,
                epsilon=epsilon,
                tier=tier,
                seed=seed,
                ray_workers=ray_workers,
                **widths,
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
