"""Enrolment of devices and of stock Flower nodes: ``tactful federated enrol``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tactful.cli import options as cli
from tactful.errors import ConfigError, TactfulError
from tactful_federated.core.checkpoint import write_whole
from tactful_federated.core.invitation import read_invitation
from tactful_federated.device.home import EnrolmentRequest
from tactful_federated.device.stock_node import require_stock
from tactful_federated.errors import FederatedError
from tactful_federated.secagg.messages import Enrolment, enrol
from tactful_federated.serving import rounds
from tactful_federated.transport.certificates import public_pem_of_openssh
from tactful_federated.transport.superlink import enrol_node


@click.command(
    "enrol", epilog=cli.example("tactful federated enrol runs/intent-1 requests/*/request.json")
)
@click.argument("directory", type=cli.any_directory)
@click.argument("requests", nargs=-1, type=cli.existing_file, required=True)
@click.option("--port", default=9092, help="Port of the SuperLink.")
@click.option(
    "--authority",
    type=cli.existing_file,
    help="PEM file of the authority; default: tls/authority.pem of DIRECTORY.",
)
@cli.json_option
def enrol_command(
    directory: Path, requests: tuple[Path, ...], port: int, authority: Path | None, as_json: bool
) -> None:
    """Enrol devices: DIRECTORY of a server, REQUESTS written by `device` as request.json.

    A file ENROLMENT is written beside each request, for the directory of the device; requests with
    an enrolment are skipped. A stock Flower node is enrolled by its public key in OpenSSH's form, a
    file that ends in .pub. The holder of authority.key decides which devices take part; if this
    is not the server, run the command elsewhere, with the port forwarded.
    """
    pinned = authority or directory / "tls" / "authority.pem"
    if not pinned.exists():
        raise ConfigError(f"{pinned} is missing: say by --authority what `serve` was given")

    def register(public_key: bytes) -> int:
        return enrol_node(f"127.0.0.1:{port}", pinned.read_bytes(), public_key)

    key = None
    if any(path.suffix != ".pub" for path in requests):
        with cli.reported_as(ConfigError, FederatedError):
            key = rounds.authority_key(directory)
    enrolled: list[dict[str, object]] = []
    for path in requests:
        try:
            node = (
                _enrol_stock(directory, path, register)
                if key is None or path.suffix == ".pub"
                else _enrol_device(key, path, register)
            )
        except (FederatedError, ValueError) as error:
            raise TactfulError(f"{path}: {error}") from error
        enrolled.append({"request": str(path), "node": node})
        if not as_json:
            click.echo(f"{path}: has its enrolment" if node is None else f"{path}: node {node}")
    if as_json:
        cli.print_json(enrolled)


def _enrol_stock(directory: Path, path: Path, register: Callable[[bytes], int]) -> int:
    """Register the key of a stock node; `tactful federated superlink` has no invitation."""
    invitation = directory / "invitation.json"
    if invitation.exists():
        require_stock(read_invitation(invitation))
    return register(public_pem_of_openssh(path.read_bytes()))


def _enrol_device(
    key: Ed25519PrivateKey, path: Path, register: Callable[[bytes], int]
) -> int | None:
    """Register a device and write its enrolment; None if it has one already."""
    request = msgspec.json.decode(path.read_bytes(), type=EnrolmentRequest)
    written = path.with_name("enrolment")
    if _is_enrolled(written, request.identity):
        return None
    identity = Ed25519PublicKey.from_public_bytes(request.identity)
    node = register(request.node)
    write_whole(written, msgspec.msgpack.encode(enrol(key, node, identity)))
    return node


def _is_enrolled(path: Path, identity: bytes) -> bool:
    if not path.exists():
        return False
    return msgspec.msgpack.decode(path.read_bytes(), type=Enrolment).identity == identity
