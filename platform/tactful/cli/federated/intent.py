"""``tactful federated intent``: predicted intent of the user of a device."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tactful.cli import options as cli
from tactful.cli.federated.options import invitation_option
from tactful.errors import ConfigError, TactfulError
from tactful_federated.core.invitation import read_invitation
from tactful_federated.device.event_store import TELLING, EventStore, Telling
from tactful_federated.device.intent import DeviceIntent
from tactful_federated.device.model_package import ModelSlot
from tactful_federated.device.personalise import Part
from tactful_federated.device.triggers import Foresight, TriggerFile, read_triggers
from tactful_federated.errors import FederatedError, SettingsError
from tactful_federated.transport.certificates import secret_file
from tactful_privacy.errors import ParameterError


@dataclass(frozen=True)
class _Foresight:
    """Categories whose probability is asked, and the time to look ahead."""

    about: tuple[str, ...]
    steps: int
    days: float | None


@dataclass(frozen=True)
class _Firing:
    """Triggers, and the user's part in their events."""

    triggers: Path | None
    user: str | None
    tell: Telling | None


@click.command(
    "intent",
    epilog=cli.example("tactful federated intent device-7 --invitation invitation.json"),
)
@click.argument("directory", type=cli.existing_directory)
@invitation_option
@click.option("--model", type=cli.existing_file, help="File with a newer signed model to install.")
@click.option("--count", type=click.IntRange(1, 32), default=3)
@click.option(
    "--randomise", metavar="EPSILON", help="Send a category by randomised response of this epsilon."
)
@click.option("--about", multiple=True, help="Category whose probability is printed; repeatable.")
@click.option(
    "--steps", type=click.IntRange(1, 1_000), default=3, help="Number of steps for --about."
)
@click.option("--days", type=click.FloatRange(0, 365, min_open=True), help="Days instead of steps.")
@click.option(
    "--triggers", type=cli.existing_file, help="JSON file of triggers, which fire if they are due."
)
@click.option("--user", help="Id of the user on the server, for events and holdouts.")
@click.option(
    "--tell",
    type=click.Choice(TELLING),
    help="Consent of the user to tell a server of foresights; it is kept until changed.",
)
@click.option(
    "--own",
    type=click.Choice(["head", "all", "nothing"]),
    default="head",
    help="Part of the model that is fitted to this person.",
)
@cli.grouped("foresight", _Foresight)
@cli.grouped("firing", _Firing)
def intent_command(
    directory: Path,
    invitation: Path,
    model: Path | None,
    count: int,
    randomise: str | None,
    own: Part | str,
    foresight: _Foresight,
    firing: _Firing,
) -> None:
    """Print the intent that the device in DIRECTORY would send with a request.

    The line of JSON has `intent` as `POST /v1/recommend` takes it. With --about it also has
    `about_to`: the probability that one of these categories comes within the next steps or days,
    which stays on the device. With --triggers it has `fired`: the actions for this device, each
    printed once, and `events` for `POST /v1/events`, as far as the user consents by --tell. Without
    consent, or before there is a model, all are empty.
    """
    with cli.reported_as(TactfulError, FederatedError):
        invited = read_invitation(invitation)
        categories = invited.vocabulary.categories
        unknown = set(foresight.about) - set(categories)
        if unknown:
            raise ConfigError(f"--about {min(unknown)}: the catalogue lists no such category")
        with cli.reported_as(ConfigError, SettingsError):
            given = read_triggers(firing.triggers, categories) if firing.triggers else None
        signer = Ed25519PublicKey.from_public_bytes(invited.signer)
        events = EventStore(
            directory / "events.db", secret_file(directory / "store.key"), now=time.time
        )
        with contextlib.closing(events):
            device = DeviceIntent(
                directory,
                events,
                ModelSlot(directory / "models", signer, invited.vocabulary, widths=invited.widths),
                invited.vocabulary,
                part=None if own == "nothing" else own,  # type: ignore[arg-type]
            )
            if model is not None:
                device.install(model.read_bytes())
            try:
                intent = device.randomised(randomise) if randomise else device.coarse(count)
            except ParameterError as error:
                raise ConfigError(f"--randomise {randomise}: {error}") from error
            told: dict[str, object] = {"intent": intent}
            if foresight.about:
                likely = device.about_to(
                    foresight.about, steps=foresight.steps, days=foresight.days
                )
                told["about_to"] = round(likely, 3)
            if firing.tell is not None:
                events.allow_telling(firing.tell)
            if given is not None:
                told |= _fire(device, given, firing.user)
    cli.print_json(told)


def _fire(device: DeviceIntent, given: TriggerFile, user: str | None) -> dict[str, object]:
    acts, events = list[Foresight](), list[dict[str, object]]()

    def tell(event: dict[str, object]) -> bool:
        events.append(event)
        return True

    device.fire(given.triggers, act=acts.append, tell=tell, user_id=user, limits=given.limits)
    return {"fired": [msgspec.to_builtins(act) for act in acts], "events": events}
