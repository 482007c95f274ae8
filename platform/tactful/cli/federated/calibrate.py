"""``tactful federated calibrate``: calibration of triggers to public histories."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tactful.cli import options as cli
from tactful.cli.federated.options import invitation_option
from tactful.errors import ConfigError, TactfulError
from tactful_federated.core.invitation import read_invitation
from tactful_federated.device.event_store import StoredVisit
from tactful_federated.device.model_package import open_package
from tactful_federated.device.triggers import Trigger, read_triggers
from tactful_federated.errors import FederatedError, HistoryError, SettingsError
from tactful_federated.simulation.foresights import History, calibrate
from tactful_privacy.decoding import DECODE_ERRORS


class _Visit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    at: float  # seconds since the epoch
    categories: list[str]


@click.command(
    "calibrate",
    epilog=cli.example(
        "tactful federated calibrate triggers.json --invitation invitation.json --model model"
        " --histories public.json --output calibrated.json"
    ),
)
@click.argument("triggers", type=cli.existing_file)
@invitation_option
@click.option("--model", type=cli.existing_file, required=True, help="File with the signed model.")
@click.option(
    "--histories",
    type=cli.existing_file,
    required=True,
    help="JSON list of people: lists of visits with `at`, in seconds, and `categories`.",
)
@click.option("--output", type=cli.any_file, required=True, help="File for calibrated triggers.")
@click.option("--source", help="Name of the histories, for devices; default: name of the file.")
@cli.json_option
def calibrate_command(
    triggers: Path,
    invitation: Path,
    model: Path,
    histories: Path,
    output: Path,
    source: str | None,
    as_json: bool,
) -> None:
    """Calibrate TRIGGERS to public histories, which the model was not trained on.

    Each look-ahead gets a calibration: isotonic from 1,000 answers on, a sigmoid with fewer. The
    histories must not be private: devices receive numbers that are fitted to them.
    """
    with cli.reported_as(TactfulError, FederatedError):
        invited = read_invitation(invitation)
        with cli.reported_as(ConfigError, SettingsError):
            given = read_triggers(triggers, invited.vocabulary.categories)
        with cli.reported_as(ConfigError, HistoryError):
            public = _read_histories(histories)
        signer = Ed25519PublicKey.from_public_bytes(invited.signer)
        package = open_package(model.read_bytes(), signer)
        predictor = package.predictor(invited.vocabulary)
        fitted = calibrate(
            given.triggers, predictor, invited.vocabulary, public, source or histories.name
        )
    file = msgspec.structs.replace(given, triggers=tuple(fitted))
    output.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=1))
    rows = [_row(trigger) for trigger in fitted]
    if as_json:
        cli.print_json([msgspec.to_builtins(row) for row in rows])
        return
    for row in rows:
        reached = "fires" if row.reached else "never fires: its threshold is never reached"
        click.echo(f"{row.trigger}: {row.questions:,} answers; most {row.most:.3f}; {reached}")


class _Row(msgspec.Struct, frozen=True):
    trigger: str
    questions: int  # answers that the calibration was fitted to
    most: float  # highest calibrated probability
    reached: bool  # whether that is the threshold or more


def _row(trigger: Trigger) -> _Row:
    calibration = trigger.calibration
    if calibration is None:
        return _Row(trigger.name, 0, 1.0, True)
    most = calibration(1.0)
    return _Row(trigger.name, calibration.questions, most, most >= trigger.threshold)


def _read_histories(path: Path) -> list[History]:
    """Read histories; the latest visit of all ends the observation of everybody."""
    try:
        people = msgspec.json.decode(path.read_bytes(), type=list[list[_Visit]])
    except DECODE_ERRORS as error:
        raise HistoryError(
            f"{path} must be a JSON list of people, each a list of visits with `at` and"
            f" `categories`: {error}"
        ) from error
    until = max((visit.at for visits in people for visit in visits), default=0.0)
    return [
        History(
            [
                StoredVisit(number, visit.at, visit.categories)
                for number, visit in enumerate(sorted(visits, key=lambda visit: visit.at), 1)
            ],
            until,
        )
        for visits in people
    ]
