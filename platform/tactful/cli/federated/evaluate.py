"""``tactful federated evaluate``: private evaluation of a model on devices."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

from tactful.cli import options as cli
from tactful.cli.federated.mlflow_runs import FederatedRuns
from tactful.cli.federated.options import (
    Cohort,
    Link,
    Results,
    cohort_options,
    link_options,
    tier_choice,
)
from tactful.cli.federated.reports import Receiver, plan_of, report_options
from tactful.errors import ConfigError, TactfulError
from tactful.util.signals import leave, on_stop_signals
from tactful_federated.core.invitation import Tier, read_invitation
from tactful_federated.core.private_evaluation import Evaluation
from tactful_federated.errors import FederatedError, SettingsError
from tactful_federated.serving.evaluations import invite_to_evaluations, serve_evaluation
from tactful_federated.serving.rounds import collector_for, visible_sums
from tactful_federated.transport.superlink import SuperLink


@click.command(
    "evaluate",
    epilog=cli.example("tactful federated evaluate runs/intent-1 --population 100000"),
)
@click.argument("directory", type=cli.existing_directory)
@click.option(
    "--weights", type=cli.existing_file, help="Weights; default: weights.npy in DIRECTORY."
)
@click.option(
    "--evaluations", type=click.IntRange(1), default=20, help="Evaluations sharing the budget."
)
@click.option("--epsilon", default=0.5, help="Privacy budget epsilon of all evaluations together.")
@cohort_options
@click.option(
    "--tier", type=tier_choice, help="What the server sees of answers; default: as in the training."
)
@click.option("--deadline", default=120.0, help="Time limit of a round, seconds.")
@link_options
@click.option("--tracking-uri", help="MLflow store; default as for `tactful train`.")
@report_options
@cli.json_option
@cli.grouped("results", Results)
def evaluate_command(
    directory: Path,
    weights: Path | None,
    evaluations: int,
    epsilon: float,
    cohort: Cohort,
    tier: Tier | None,
    deadline: float,
    link: Link,
    receiver: Receiver,
    results: Results,
) -> None:
    """Evaluate a model once, privately, on the devices of the server in DIRECTORY.

    The first call plans all evaluations and writes evaluation.json, the --invitation of devices;
    epsilon is added to that of the training.
    """
    tls = link.tls(directory)
    model = weights or directory / "weights.npy"
    if not model.exists():
        raise ConfigError(f"{model} is missing: say by --weights which model to ask about")
    try:
        vector = np.load(model, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{model} holds no weights: {error}; give a file as serve writes weights.npy"
        ) from error
    # Before anything is spent: a store that cannot be opened is known by now.
    runs = FederatedRuns(directory, tracking_uri=results.tracking_uri)
    with cli.reported_as(ConfigError, SettingsError):
        trained = read_invitation(directory / "invitation.json")
        wishes = cohort.wishes(epsilon=epsilon, rounds=evaluations)
        invitation = invite_to_evaluations(directory, wishes, tier=tier)
    with (
        cli.reported_as(TactfulError, FederatedError),
        on_stop_signals(leave),
        SuperLink(directory, tls, port=link.port) as superlink,
        superlink.run(invitation.run) as grid,
    ):
        click.echo(f"devices take {directory / 'evaluation.json'} as invitation", err=True)
        collector = collector_for(invitation, grid, deadline=deadline)
        begun = time.monotonic()
        found, left = serve_evaluation(directory, invitation, vector, collector)
        seconds = time.monotonic() - begun
    # Before it is logged: an answer that cost its budget is not lost with a store that is down.
    _tell(found, left, evaluations, as_json=results.as_json)
    if found.devices and receiver.report is not None:
        with receiver.open(
            directory, name=trained.run, tier=trained.tier, plan=plan_of(trained.plan)
        ) as reporter:
            shares = {name: min(1.0, max(0.0, getattr(found, name))) for name in ("top1", "top5")}
            reporter.add_accuracy(**shares, top1_error=found.top1_error)
    sums = visible_sums(invitation.tier, found.round, evaluations - left)
    epsilon = round(invitation.plan.epsilon_after(sums), 6)
    runs.show_evaluation(trained, found, epsilon=epsilon, seconds=round(seconds, 3))


def _tell(found: Evaluation, left: int, evaluations: int, *, as_json: bool) -> None:
    if as_json:
        cli.print_json(asdict(found) | {"left": left})
    elif not found.devices:
        click.echo(f"what came back is no more than noise: ask more devices; {left} are left")
    else:
        click.echo(f"top-1 {found.top1:.3f} (noise {found.top1_error:.3f})")
        click.echo(f"top-5 {found.top5:.3f} (noise {found.top5_error:.3f})")
        click.echo(
            f"of about {found.devices:.0f} devices; {left} of {evaluations} evaluations are left"
        )
