"""Training on devices over a network: ``tactful federated serve``, ``enrol`` and ``device``."""

from __future__ import annotations

import contextlib
import datetime
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from tqdm import tqdm

from tactful.errors import ConfigError, TactfulError
from tactful.stop_signals import on_stop_signals

if TYPE_CHECKING:
    from tactful_federated import LiveView, Outcome
    from tactful_federated.compression import Encoding
    from tactful_federated.invitation import Tier

_NAP_S = 0.5
_directory = click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("serve")
@_directory
@click.option("--catalogue", type=_file, required=True, help="Public categories, one a line.")
@click.option("--population", type=click.IntRange(1), required=True, help="Devices in all.")
@click.option("--run", "name", default="intent-1", show_default=True, help="Name of the run.")
@click.option("--epsilon", type=float, default=2.0, show_default=True, help="For the whole run.")
@click.option("--delta", type=float, help="Default: a tenth of 1 / population.")
@click.option("--rounds", type=click.IntRange(1), default=500, show_default=True)
@click.option("--report-goal", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--minimum-reports", type=click.IntRange(0), default=0, help="0: two thirds of it.")
@click.option("--over-selection", type=float, default=1.3, show_default=True)
@click.option("--availability", type=float, default=0.5, show_default=True)
@click.option(
    "--tier",
    type=click.Choice(["clear", "secret", "noise-in-sum"]),
    default="secret",
    show_default=True,
    help="What the server sees.",
)
@click.option(
    "--encoding",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="Of updates in the clear.",
)
@click.option("--deadline", type=float, default=120.0, show_default=True, help="Seconds.")
@click.option("--host", "hosts", multiple=True, help="Name of the proxy; may be repeated.")
@click.option("--port", type=int, default=9092, show_default=True, help="Of loopback.")
@click.option("--certificate", type=_file, help="PEM; without it one is made, with --host.")
@click.option("--key", type=_file, help="PEM, of the certificate.")
@click.option("--authority", type=_file, help="PEM that devices pin.")
@click.option("--tracking-uri", help="MLflow store; default as for `tactful train`.")
@click.option("--json", "as_json", is_flag=True, help="Print each round as a line of JSON.")
def serve_command(
    directory: Path,
    catalogue: Path,
    population: int,
    name: str,
    epsilon: float,
    delta: float | None,
    rounds: int,
    report_goal: int,
    minimum_reports: int,
    over_selection: float,
    availability: float,
    tier: Tier,
    encoding: Encoding,
    deadline: float,
    hosts: tuple[str, ...],
    port: int,
    certificate: Path | None,
    key: Path | None,
    authority: Path | None,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Lead private training over a SuperLink; started again, it goes on in DIRECTORY."""
    from tactful.federated_runs import FederatedRuns
    from tactful_federated import (
        FederatedError,
        SettingsError,
        SuperLink,
        Tls,
        Wishes,
        collector_for,
        invite,
        make_tls,
        serve_rounds,
    )

    if encoding != "float32" and tier != "clear":
        raise ConfigError("--encoding goes with --tier clear: secret sums have words of 32 bits")
    given = [path for path in (certificate, key, authority) if path]
    if given and len(given) < 3:
        raise ConfigError("--certificate, --key and --authority go together")
    try:
        invitation = invite(
            directory,
            Wishes(
                epsilon=epsilon,
                delta=0.1 / population if delta is None else delta,
                population=population,
                rounds=rounds,
                report_goal=report_goal,
                over_selection=over_selection,
                minimum_reports=minimum_reports,
                availability=availability,
            ),
            [line for line in catalogue.read_text("utf-8").splitlines() if line],
            run=name,
            tier=tier,
        )
        now = datetime.datetime.now(datetime.UTC)
        names = list(dict.fromkeys([*hosts, "localhost", "127.0.0.1"]))
        tls = Tls(*given) if given else make_tls(directory / "tls", names, now=now)
    except SettingsError as error:
        raise ConfigError(str(error)) from error
    bar = tqdm(total=rounds, unit="release", disable=as_json or not sys.stderr.isatty())
    runs = FederatedRuns(directory, tracking_uri=tracking_uri)
    run = runs.begin(invitation)

    def show(outcome: Outcome, view: LiveView) -> None:
        bar.update(outcome.releases - bar.n)
        bar.set_postfix(epsilon=f"{view.epsilon:.3g}")
        runs.show(run, view)
        if as_json:
            click.echo(msgspec.json.encode(view))

    try:
        with (
            on_stop_signals(_stop),
            SuperLink(directory, tls, port=port) as link,
            link.run() as grid,
            bar,
        ):
            click.echo(
                f"SuperLink on {link.address}; put the proxy of deploy/fleet-proxy.conf before it,"
                f" and give devices {directory / 'invitation.json'} and {tls.authority}",
                err=True,
            )
            serve_rounds(
                directory,
                invitation,
                collector_for(invitation, grid, deadline=deadline, encoding=encoding),
                progress=show,
            )
    except FederatedError as error:
        raise TactfulError(str(error)) from error
    version = runs.finish(run)
    click.echo(
        f"intent model version {version} is the champion; its package: {directory / 'model'}"
    )


@click.command("enrol")
@_directory
@click.argument("requests", nargs=-1, type=_file, required=True)
@click.option("--port", type=int, default=9092, show_default=True, help="Of the SuperLink.")
@click.option("--authority", type=_file, help="PEM; default: tls/authority.pem of DIRECTORY.")
def enrol_command(
    directory: Path, requests: tuple[Path, ...], port: int, authority: Path | None
) -> None:
    """Let devices in: DIRECTORY is the server's, REQUESTS what `device` wrote as request.json.

    Beside each request a file ENROLMENT is written, for the device to put into its directory; a
    request that has its enrolment is passed over. Who
    holds authority.key decides who is a device; where the server must not, run this elsewhere, with
    the port forwarded.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from tactful_federated import EnrolmentRequest, FederatedError, enrol
    from tactful_federated.checkpoint import write_whole
    from tactful_federated.serving import authority_key
    from tactful_federated.superlink import enrol_node

    pinned = authority or directory / "tls" / "authority.pem"
    if not pinned.exists():
        raise ConfigError(f"{pinned} is missing: say by --authority what `serve` was given")
    try:
        key = authority_key(directory)
    except FederatedError as error:
        raise ConfigError(str(error)) from error
    for path in requests:
        written = path.with_name("enrolment")
        try:
            request = msgspec.json.decode(path.read_bytes(), type=EnrolmentRequest)
            if _is_enrolled(written, request.identity):
                click.echo(f"{path}: has its enrolment")
                continue
            identity = Ed25519PublicKey.from_public_bytes(request.identity)
            node = enrol_node(f"127.0.0.1:{port}", pinned.read_bytes(), request.node)
        except (FederatedError, ValueError) as error:
            raise TactfulError(f"{path}: {error}") from error
        write_whole(written, msgspec.msgpack.encode(enrol(key, node, identity)))
        click.echo(f"{path}: node {node}")


@click.command("device")
@_directory
@click.option("--invitation", type=_file, required=True, help="The run, as its server wrote it.")
@click.option("--server", help="host:port of the proxy; without it only DIRECTORY is made.")
@click.option("--authority", type=_file, help="PEM of the only authority that is trusted.")
@click.option("--consent/--withdraw", default=None, help="Agree to training; or forget everything.")
@click.option("--history", type=_file, help="JSON list of visits, each a list of categories.")
@click.option("--only-while", help="Command that succeeds while training is not felt.")
@click.option("--rotate", is_flag=True, help="Draw new keys: to the server a stranger.")
@click.option("--poll", type=float, default=30.0, show_default=True, help="Seconds.")
def device_command(
    directory: Path,
    invitation: Path,
    server: str | None,
    authority: Path | None,
    consent: bool | None,
    history: Path | None,
    only_while: str | None,
    rotate: bool,
    poll: float,
) -> None:
    """Take part in a run as one device, until stopped; what it knows stays in DIRECTORY."""
    from tactful_federated import DeviceHome, FederatedError, FleetClient, read_invitation

    try:
        home = DeviceHome(directory, read_invitation(invitation), rotate=rotate)
    except FederatedError as error:
        raise TactfulError(str(error)) from error
    try:
        if consent is not None:
            (home.events.give_consent if consent else home.events.withdraw_consent)()
        if history is not None:
            home.remember(_visits(history))
        if server is None:
            click.echo(f"have {directory / 'request.json'} enrolled")
            return
        if authority is None:
            raise ConfigError("--authority is missing: a device trusts one authority and no other")
        stopped: list[bool] = []
        client = FleetClient(
            server,
            authority.read_bytes(),
            home.key,
            home.app(),
            ready=lambda: home.events.consent and _succeeds(only_while),
            node=home.node,
            greeted=home.greeted,
            poll=poll,
            sleep=lambda seconds: _sleep(seconds, stopped),
        )
        with contextlib.closing(client), on_stop_signals(lambda: stopped.append(True)):
            client.work(lambda: bool(stopped))
    except FederatedError as error:
        raise TactfulError(str(error)) from error
    finally:
        home.close()


def _visits(path: Path) -> list[list[str]]:
    try:
        return msgspec.convert(json.loads(path.read_text("utf-8")), list[list[str]])
    except (ValueError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"{path} must hold a JSON list of lists of categories: {error}"
        ) from error


def _sleep(seconds: float, stopped: list[bool]) -> None:
    """Wait, but not for the end of a long wait once a signal came."""
    end = time.monotonic() + seconds
    while not stopped and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _NAP_S))


def _is_enrolled(path: Path, identity: bytes) -> bool:
    from tactful_federated import Enrolment

    if not path.exists():
        return False
    return msgspec.msgpack.decode(path.read_bytes(), type=Enrolment).identity == identity


def _succeeds(command: str | None) -> bool:
    if command is None:
        return True
    return subprocess.run(shlex.split(command), capture_output=True, check=False).returncode == 0


def _stop() -> None:
    raise SystemExit(0)
