"""Flower app of a stock SuperNode: a device whose process ends after each message.

A stock node (`flower-supernode`) fetches the bundle of a run and starts a process for each message.
The bundle of ours only imports this module, so the code of a device is the installed one. But the
node runs *whatever* bundle its server sends: its operator trusts the server with code, and compares
the hash of the bundle, which Flower logs, with the one in the invitation.

The configuration of the node names the directory of the device, made by `tactful-device`:

    device      directory with keys, visits and ledger
    invitation  file; by default `invitation.json` and `evaluation.json` of the directory

Only updates in the clear are possible: in a secure sum a device keeps the keys of a session in
memory over five messages, and this process ends after each.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from msgspec import UNSET

from tactful_federated.core.invitation import Invitation, Tier, read_invitation
from tactful_federated.device.home import DeviceHome
from tactful_federated.errors import SettingsError, extra, require
from tactful_federated.transport.flower_clear import only_kind_of_errors

with extra():
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

_FILES = ("invitation.json", "evaluation.json")

app = ClientApp()
"""The Flower ClientApp."""


@app.train()
def answer(message: Message, context: Context) -> Message:
    """Train on the visits of the device, or score the model on them if the run evaluates.

    Raises:
        RuntimeError: The device refuses or fails; the text is the kind of the error, since Flower
            sends it. The log of the node has the rest.
    """
    with only_kind_of_errors():
        directory = Path(str(context.node_config.get("device", "")))
        invitation = invitation_of(directory, context)
        with closing(DeviceHome(directory, invitation)) as home:
            return home.app()(message, context)


def invitation_of(directory: Path, context: Context) -> Invitation:
    """Return the invitation to the run of a message.

    Raises:
        SettingsError: The configuration of the node names no device, no invitation is for this run,
            or stock nodes cannot take part in it.
    """
    require((directory / "ledger.db").is_file(), f"{directory} is not the directory of a device")
    given = str(context.node_config.get("invitation", ""))
    paths = [Path(given)] if given else [directory / name for name in _FILES]
    run = str(context.run_config.get("run", ""))
    for invitation in (read_invitation(path) for path in paths if path.is_file()):
        if invitation.run == run:
            require_stock(invitation)
            return invitation
    raise SettingsError(f"{directory} has no invitation to the run {run!r}: get it from the server")


def require_clear(tier: Tier) -> None:
    """Raise `SettingsError` unless stock nodes can take part in runs of a tier."""
    require(
        tier == "clear",
        f"stock Flower nodes cannot take part in tier {tier}: the keys of a secure sum"
        " stay in memory over five messages, and a stock node starts a process for each; use"
        " tactful-device, or --tier clear",
    )


def require_stock(invitation: Invitation) -> None:
    """Raise `SettingsError` unless stock nodes can take part in a run."""
    require_clear(invitation.tier)
    require(
        invitation.bundle is not UNSET,
        f"stock Flower nodes cannot take part in {invitation.run}: serve the run with --stock",
    )
