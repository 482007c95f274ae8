"""``tactful federated plan``: costs of private training on devices."""

from __future__ import annotations

from dataclasses import asdict

import click

from tactful.cli import options as cli
from tactful.cli.federated.options import Cohort, cohort_options, tier_choice
from tactful.errors import ConfigError
from tactful_federated.core.invitation import Tier
from tactful_federated.errors import SettingsError
from tactful_federated.model.lstm_numpy import CURVATURE
from tactful_federated.serving.tiers import TierReport, report_tier


@click.command(
    "plan",
    epilog=cli.example(
        "tactful federated plan --population 100000",
        "tactful federated plan --population 1000000 --tier noise-in-sum --group-size 500",
    ),
)
@click.option("--tier", type=tier_choice, default="secret", help="What the server sees.")
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
    tier: Tier,
    epsilon: float,
    rounds: int,
    cohort: Cohort,
    update_norm: float,
    parameters: int,
    bands: int,
    curvature: float | None,
    as_json: bool,
) -> None:
    """Compute privacy, noise, expected loss and costs of a training run before it starts."""
    with cli.reported_as(ConfigError, SettingsError):
        wishes = cohort.wishes(
            epsilon=epsilon,
            rounds=rounds,
            update_norm=update_norm,
            parameters=parameters,
            most_bands=bands,
        )
        report = report_tier(wishes, tier)
    plan, loss = (
        report.plan,
        report.plan.expected_loss(CURVATURE if curvature is None else curvature),
    )
    if as_json:
        told = {key: value for key, value in asdict(report).items() if key != "plan"}
        cli.print_json(asdict(plan) | {"expected_loss": loss, "tier": told}, pretty=True)
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
        *_tier_rows(report),
    ]
    for name, text in rows:
        click.echo(f"{name:20} {text}")


def _tier_rows(report: TierReport) -> list[tuple[str, str]]:
    """Return the rows about a tier: view of the server, sums, costs and refused options."""
    server = "none: the server is trusted with it"
    if report.server_epsilon is not None:
        server = f"{report.server_epsilon:g}, if {report.noisy} devices of each sum add noise"
    rows = [
        ("tier", f"{report.tier}: the server reads {report.server_sees}"),
        ("epsilon of server", server),
        ("epsilon of model", f"{report.model_epsilon:.3g}"),
    ]
    if report.costs:
        costs, size = report.costs, f"of at most {report.sum_size}"
        rows += [
            ("sums of a round", f"{report.sums} {size} devices, {report.sum_fewest} or more each"),
            ("masks with", _graph_text(report)),
            ("a device sends", f"{costs.device_sends / 1e3:,.0f} kB in a round"),
            ("a device receives", f"{costs.device_receives / 1e3:,.0f} kB"),
            ("CPU of a device", f"{costs.device_seconds:.2g} s besides training"),
            ("CPU of the server", f"{report.server_seconds:.3g} s, with a tenth of drop-outs"),
        ]
    return [*rows, *((f"no {option}", reason) for option, reason in report.refused.items())]


def _graph_text(report: TierReport) -> str:
    if not report.threshold:
        return f"all {report.neighbours} others; a third may collude or drop out"
    return f"{report.neighbours} neighbours, of whom {report.threshold} must stay"
