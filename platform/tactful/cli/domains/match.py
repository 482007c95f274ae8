"""``tactful domains ask``, ``answer`` and ``matches``: people that two domains both know.

Only people who consented to the crossing enter, in both domains; see `domains.intersection`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import Any

import click
import msgspec

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.domains import intersection
from tactful.errors import ConfigError, StorageError
from tactful.metadata.audit import AuditTrail
from tactful.metadata.connections import open_installation
from tactful.models.audit_log import login_and_host
from tactful.models.training_run import open_training_log
from tactful.subjects.consent import open_consents
from tactful.subjects.suppression import open_suppression
from tactful.training.history import History
from tactful.util.clock import now_ms
from tactful_privacy.durable_files import replace_file
from tactful_privacy.people.consent import crossing

_MOST = 100_000

_by = click.option(
    "--by",
    default="properties.email",
    show_default=True,
    help="Identifier that both domains store: properties.NAME of users, or user_id.",
)


class _Asked(msgspec.Struct, frozen=True):
    """Private part of a request; it names no user.

    Attributes:
        key: private key of the request.
        peer: domain that is asked.
        by: kind of the identifiers.
        people: keyed hashes of the identifiers, in the order of the request.
    """

    key: bytes
    peer: str
    by: str
    people: list[str]


@click.command("ask", epilog=cli.example("tactful domains ask shop --to request.bin"))
@cli.with_settings
@click.argument("peer")
@_by
@click.option("--to", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File.")
@cli.json_option
def ask(settings: Settings, peer: str, by: str, to: Path, as_json: bool) -> None:
    """Ask the domain PEER which of the people here it knows, too; write the request to a file.

    Beside it lies FILE.key, which stays here and is needed to read the answer.
    """
    people = _people(settings, crossing(peer, settings.domains.name), by, peer)
    if not people:
        raise ConfigError(f"nobody with {by} consented to profiles from {peer!r}: nothing to ask")
    key, request = intersection.ask([*people])
    private = to.with_name(f"{to.name}.key")
    hashes = [_hash(key, identifier) for identifier in people]
    _write(private, msgspec.msgpack.encode(_Asked(key, peer, by, hashes)))
    _write(to, request)
    _print_files(as_json, request=str(to), key=str(private))


@click.command(
    "answer", epilog=cli.example("tactful domains answer magazine request.bin --to answer.bin")
)
@cli.with_settings
@click.argument("peer")
@click.argument("request", type=cli.existing_file)
@_by
@click.option("--to", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File.")
@click.option("--most", default=_MOST, show_default=True, help="Most identifiers of a request.")
@cli.json_option
def answer(
    settings: Settings, peer: str, request: Path, by: str, to: Path, most: int, as_json: bool
) -> None:
    """Answer the REQUEST of the domain PEER from the people here who let profiles cross to it."""
    people = _people(settings, crossing(settings.domains.name, peer), by, peer)
    _write(to, intersection.answer(request.read_bytes(), [*people], most=most))
    _print_files(as_json, answer=str(to))


@click.command(
    "matches", epilog=cli.example("tactful domains matches answer.bin --key request.bin.key")
)
@cli.with_settings
@click.argument("answered", type=cli.existing_file)
@click.option("--key", required=True, type=cli.existing_file, help="Private file of the request.")
@cli.json_option
def matches(settings: Settings, answered: Path, key: Path, as_json: bool) -> None:
    """Print the users here whom the other domain knows, too, by its ANSWERED file.

    Users who withdrew or were erased since the request are left out. At the end the private file of
    the request is deleted.
    """
    try:
        asked = msgspec.msgpack.decode(key.read_bytes(), type=_Asked)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{key}: is no private file of `tactful domains ask`") from error
    common = set(intersection.common(asked.key, asked.people, answered.read_bytes()))
    known = _people(settings, crossing(asked.peer, settings.domains.name), asked.by, asked.peer)
    people = sorted(
        person for identifier, person in known.items() if _hash(asked.key, identifier) in common
    )
    if as_json:
        cli.print_json({"people": people})
    else:
        for person in people:
            click.echo(person)
    try:
        key.unlink()
    except OSError as error:
        raise StorageError(f"{key}: cannot be deleted: {error.strerror}; delete it") from error


def _hash(key: bytes, identifier: str) -> str:
    return blake2b(identifier.encode(), key=key, digest_size=16).hexdigest()


def _people(settings: Settings, pair: str, by: str, peer: str) -> dict[str, str]:
    """Return the people who consented to a crossing, by identifier; records the look.

    An identifier of several people is left out: it names none of them.
    """
    if peer not in settings.domains.peers:
        raise ConfigError(f"[domains.peers] has no domain {peer!r}")
    name = by.removeprefix("properties.")
    if by != "user_id" and (name == by or not name):
        raise ConfigError(f"--by {by}: give properties.NAME or user_id")
    with open_training_log(settings) as (log, _):
        described = {user.user_id: user.properties for _, user in History.read(log).people}
    with contextlib.closing(open_installation(settings)) as metadata:
        consents = open_consents(settings, metadata, clock=now_ms, beside=True).consents
        erased = open_suppression(settings, metadata, clock=now_ms).suppressed
        record = AuditTrail(metadata, clock=now_ms).record_change
        record(login_and_host(), "domain.match", pair, by)
    identified = [
        (intersection.normalised(pair, value), person)
        for person, properties in described.items()
        if person not in erased
        and consents.crosses(pair, person)
        and (value := _value(properties, person, by, name))
    ]
    counts = Counter(identifier for identifier, _ in identified)
    return {identifier: person for identifier, person in identified if counts[identifier] == 1}


def _value(properties: dict[str, Any], person: str, by: str, name: str) -> str:
    value = person if by == "user_id" else properties.get(name)
    return value if isinstance(value, str) else ""


def _write(path: Path, content: bytes) -> None:
    try:
        replace_file(path, content, private=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def _print_files(as_json: bool, **files: str) -> None:
    if as_json:
        cli.print_json(files)
    else:
        click.echo(", ".join(files.values()), err=True)
