"""``tactful user``: consent, export and erasure of one user.

These commands work on the installation, not over HTTP: on its metadata, which a running server
follows, and on its data directory.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.erasure.erase import preview, request_erasure, request_suppressed, run_erasures
from tactful.erasure.offline_stores import check_rebuild
from tactful.errors import ConfigError, StorageError
from tactful.metadata.connections import open_installation
from tactful.metadata.directory_lock import exclusive
from tactful.models.audit_log import login_and_host
from tactful.subjects.access_log import AccessLog
from tactful.subjects.consent import ConsentStore, default_purposes
from tactful.subjects.export import export_page, export_person
from tactful.subjects.installation import Installation
from tactful.subjects.suppression import open_suppression
from tactful.util.clock import now_ms
from tactful_privacy.errors import ParameterError
from tactful_privacy.people.consent import parse_purposes
from tactful_streaming.errors import StreamingError


@click.group()
def user() -> None:
    """Manage consent, export and erasure of one user."""


@user.command("consent")
@cli.with_settings
@cli.json_option
@click.argument("person")
@click.option(
    "--allow", "allowed", multiple=True, metavar="PURPOSE", help="Purpose that the person accepts."
)
@click.option(
    "--deny", "denied", multiple=True, metavar="PURPOSE", help="Purpose that the person refuses."
)
@click.option(
    "--source", default="tactful user consent", show_default=False, help="Source of the decision."
)
def consent(
    settings: Settings,
    person: str,
    as_json: bool,
    allowed: tuple[str, ...],
    denied: tuple[str, ...],
    source: str,
) -> None:
    """Show the consent of PERSON; --allow and --deny record a decision first.

    PERSON is a user id, or device: and a device id.
    """
    with cli.reported_as(ConfigError, ParameterError):
        agreed, refused = parse_purposes(allowed), parse_purposes(denied)
    if both := sorted(agreed & refused):
        raise ConfigError(f"--allow and --deny both name {both[0]}: say one of them")
    with _metadata(settings) as metadata:
        store = ConsentStore(metadata, default_purposes(settings), clock=now_ms)
        suppressed = open_suppression(settings, metadata, clock=now_ms).suppressed
        if person in suppressed:
            raise StorageError("this person was erased: who comes back needs a new id")
        if agreed or refused:
            said = dict.fromkeys(agreed, True) | dict.fromkeys(refused, False)
            store.record(person, said, source=source)
        history = store.history(person)
        holds = sorted(store.consents.allowed(person))
    if as_json:
        cli.print_json({"person": person, "allowed": holds, "history": history})
        return
    click.echo(f"may be used for: {', '.join(holds) or 'nothing'}")
    for decision in history:
        words = ", ".join(f"{p} {'yes' if y else 'no'}" for p, y in decision.purposes.items())
        click.echo(f"{decision.version:>8}  {_day(decision.at)}  {words}  ({decision.source})")


@user.command("export")
@cli.with_settings
@cli.json_option
@click.argument("person")
@click.option("--to", type=cli.any_directory, help="Directory for the two files.")
def export(settings: Settings, person: str, as_json: bool, to: Path | None) -> None:
    """Export all data of PERSON: export.json for programs, export.html for readers.

    Without --to the data are printed. PERSON is a user id, or device: and a device id.
    """
    with _metadata(settings) as metadata, cli.reported_as(StorageError, StreamingError):
        if not settings.log.in_files:
            raise ConfigError("the log is in Kafka: ask a server, GET /v1/users/{user_id}/export")
        suppression = open_suppression(settings, metadata, clock=now_ms)
        accesses = AccessLog(metadata, suppression.keyring, clock=now_ms)
        accesses.record(person, "export", by=login_and_host())
        found = export_person(settings, metadata, person, clock=now_ms)
    encoded = msgspec.json.encode(found)
    if to is None:
        click.echo(encoded.decode())
        return
    to.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in (("export.json", encoded), ("export.html", export_page(found).encode())):
        (to / name).write_bytes(content)
    if as_json:
        cli.print_json({"directory": str(to), "records": len(found.records)})
    else:
        click.echo(f"{len(found.records)} records: {to / 'export.json'}, {to / 'export.html'}")


@user.command("accesses")
@cli.with_settings
@cli.json_option
@click.argument("person", required=False)
@click.option("--limit", default=100, show_default=True, help="Maximum number of accesses.")
def accesses(settings: Settings, person: str | None, as_json: bool, limit: int) -> None:
    """List who exported or erased the data of PERSON, newest first; of all users without PERSON.

    Users are stored as keyed hashes, so a list of all users names nobody.
    """
    with _metadata(settings) as metadata:
        suppression = open_suppression(settings, metadata, clock=now_ms)
        log = AccessLog(metadata, suppression.keyring, clock=now_ms)
        rows = log.accesses(person, limit=limit)
    if as_json:
        cli.print_json(rows)
        return
    for access in rows:
        click.echo(f"{access.id:>8}  {_day(access.at)}  {access.action:<6}  {access.by}")


@user.command("erase")
@cli.with_settings
@cli.json_option
@click.argument("person", required=False)
@click.option("--dry-run", is_flag=True, help="Only list the person's stored data; change nothing.")
@click.option("--rebuild", is_flag=True, help="Recompute state from the log without the person.")
@click.option("--again", is_flag=True, help="Repeat all earlier erasures; after a restore.")
def erase(
    settings: Settings, person: str | None, as_json: bool, dry_run: bool, rebuild: bool, again: bool
) -> None:
    """Erase PERSON, and finish every pending erasure.

    With --dry-run nothing changes, and a server may be running.

    New data of the person are refused from now on. Stored data are removed at once or, if a server
    uses the data directory, by the server within seconds to minutes; its receipt names the time.
    Without PERSON, only pending erasures are finished.
    PERSON is a user id, or device: and a device id.
    """
    if dry_run and person is None:
        raise ConfigError("--dry-run needs to know who: name a person")
    with _metadata(settings) as metadata:
        if rebuild:
            check_rebuild(settings)
        suppression = open_suppression(settings, metadata, clock=now_ms)
        installation = Installation(settings, metadata, suppression, now_ms)
        if dry_run and person is not None:
            with cli.reported_as(StorageError, StreamingError):
                steps = preview(installation, person)
            if as_json:
                cli.print_json(steps)
            for step in () if as_json else steps:
                click.echo(f"{step.place:<14} {step.removed:>9}  {step.note}")
            return
        receipt = None
        if person is not None:
            installation.accesses.record(person, "erase", by=login_and_host())
            receipt = request_erasure(installation, person)
        held = contextlib.ExitStack()
        try:
            held.enter_context(exclusive(settings.storage.data))
        except StorageError:
            if receipt is None:
                raise
            if as_json:
                cli.print_json([receipt])
            else:
                click.echo(
                    f"{receipt.receipt}: a server uses {settings.storage.data}. Nothing is taken "
                    "or read of them any more, and it removes what there is of them now, by "
                    f"{_day(receipt.due_at)} at the latest"
                )
                if rebuild:
                    click.echo("its state is not rebuilt: restart with `tactful serve --rebuild`")
            return
        with held:
            if again:
                request_suppressed(installation)
            done = run_erasures(installation, rebuild=rebuild)
    if as_json:
        cli.print_json(done)
        return
    for erasure in done:
        click.echo(f"{erasure.receipt}: {erasure.state}")
        for step in erasure.steps:
            click.echo(f"  {step.place:<14} {step.removed:>9}  {step.note}")
    if not done:
        click.echo("no erasure waits")


@contextlib.contextmanager
def _metadata(settings: Settings) -> Iterator[Any]:
    if not settings.storage.data.is_dir():
        raise StorageError(f"{settings.storage.data}: there is no data directory here")
    with contextlib.closing(open_installation(settings)) as metadata:
        yield metadata


def _day(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at / 1000)) + " UTC"
