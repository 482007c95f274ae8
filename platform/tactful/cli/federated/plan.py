"""``tactful federated plan``: costs of private training on devices."""

from __future__ import annotations

from dataclasses import asdict

import click

from tactful.cli import options as cli
from tactful.cli.federated.options import Cohort, cohort_options
from tactful.errors import ConfigError
from tactful_federated.core.plan import plan_training
from tactful_federated.errors import SettingsError
from tactful_federated.model.lstm_numpy import CURVATURE


@click.command("plan", epilog=cli.example("tactful federated plan --population 100000"))
@click.option("--epsilon", default=2.0, help="Privacy budget epsilon of the whole run.")
@click.option("--rounds", type=click.IntRange(1), default=500)
@cohort_options
@click.option("--update-norm", default=2.0)
@click.option("--parameters", type=click.IntRange(1), default=20_000)
@click.option("--bands", type=click.IntRange(1), default=64, help="Maximum number of bands.")
@click.option(
    "--curvature",
    type=click.FloatRange(0),
    help="Curvature of the loss, for its expected increase; default: as measured on a shop.",
)
@cli.json_option
def plan_command(
    epsilon: float,
    rounds: int,
    cohort: Cohort,
    update_norm: float,
    parameters: int,
    bands: int,
    curvature: float | None,
    as_json: bool,
) -> None:
    """Compute privacy, noise and expected loss of a training run before it starts."""
    with cli.reported_as(ConfigError, SettingsError):
        wishes = cohort.wishes(
            epsilon=epsilon,
            rounds=rounds,
            update_norm=update_norm,
            parameters=parameters,
            most_bands=bands,
        )
        plan = plan_training(wishes)
    loss = plan.expected_loss(CURVATURE if curvature is None else curvature)
    if as_json:
        cli.print_json(asdict(plan) | {"expected_loss": loss}, pretty=True)
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
