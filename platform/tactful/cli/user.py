"""``tactful user``: consent, look-up, export and erasure of users.

These commands work on the installation, not over HTTP: on its metadata, which a running server
follows, and on its data directory.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from tactful.cli import options as cli
from tactful.cli.exit_codes import ExitCode
from tactful.config.settings import Settings
from tactful.erasure.bulk import request_erasures
from tactful.erasure.erase import preview, request_suppressed, run_erasures
from tactful.erasure.offline_stores import check_rebuild, open_search
from tactful.errors import ConfigError, StorageError
from tactful.metadata.connections import open_installation
from tactful.metadata.directory_lock import exclusive
from tactful.models.audit_log import login_and_host
from tactful.schemas.users import Erasure, ErasureRequest, ErasureResult, PersonMatches
from tactful.subjects.access_log import Access, AccessLog
from tactful.subjects.consent import ConsentStore, served_purposes
from tactful.subjects.export import export_page, export_person
from tactful.subjects.installation import Installation
from tactful.subjects.look_up import Identifier, look_up
from tactful.subjects.minimise import make_minimiser
from tactful.subjects.suppression import open_suppression
from tactful.util.clock import now_ms
from tactful_privacy.errors import ParameterError
from tactful_privacy.people.consent import parse_decision
from tactful_streaming.errors import StreamingError


@click.group()
def user() -> None:
    """Manage consent, look-up, export and erasure of users."""


@user.command(
    "consent",
    epilog=cli.example(
        "tactful user consent ada", "tactful user consent ada --allow measurement --deny marketing"
    ),
)
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
    """Show what PERSON allows now, defaults included; --allow and --deny record a decision first.

    PERSON is a user id, or device: and a device id.
    """
    with cli.reported_as(ConfigError, ParameterError):
        agreed = parse_decision(dict.fromkeys(allowed, True), settings.domains.pairs)
        refused = parse_decision(dict.fromkeys(denied, False), settings.domains.pairs)
    if both := sorted(agreed.keys() & refused):
        raise ConfigError(f"--allow and --deny both name {both[0]}: say one of them")
    with _metadata(settings) as metadata:
        default = served_purposes(settings)
        store = ConsentStore(metadata, default, clock=now_ms, domains=settings.domains)
        suppression = open_suppression(settings, metadata, clock=now_ms)
        if person in suppression.suppressed:
            raise StorageError("this person was erased: who comes back needs a new id")
        accesses = AccessLog(metadata, suppression.keyring, clock=now_ms)
        decides: Access = "decide" if agreed or refused else "consent"
        accesses.record(person, decides, by=login_and_host())
        if agreed or refused:
            store.record(person, agreed | refused, source=source)
        history = store.history(person)
        holds = store.consents.held(person, crossings=settings.domains.pairs)
        decided = store.consents.said(person)
    assumed = [purpose for purpose in holds if purpose in default and purpose not in decided]
    if as_json:
        told = {"person": person, "allowed": holds, "by_default": assumed, "history": history}
        cli.print_json(told)
        return
    click.echo(f"may be used for: {', '.join(holds) or 'nothing'}")
    if assumed:
        click.echo(f"by default, without a decision: {', '.join(assumed)}")
    if not history:
        click.echo("no decision is recorded", err=True)
    for decision in history:
        words = ", ".join(f"{p} {'yes' if y else 'no'}" for p, y in decision.purposes.items())
        click.echo(f"{decision.version:>8}  {_day(decision.at)}  {words}  ({decision.source})")


@user.command("export", epilog=cli.example("tactful user export ada --to exports/ada"))
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


@user.command("accesses", epilog=cli.example("tactful user accesses ada"))
@cli.with_settings
@cli.json_option
@click.argument("person", required=False)
@click.option("--limit", default=100, show_default=True, help="Maximum number of accesses.")
def accesses(settings: Settings, person: str | None, as_json: bool, limit: int) -> None:
    """List who found, read, exported or erased the data of PERSON, or of all users, newest first.

    Users are stored as keyed hashes, so a list of all users names nobody.
    """
    with _metadata(settings) as metadata:
        suppression = open_suppression(settings, metadata, clock=now_ms)
        log = AccessLog(metadata, suppression.keyring, clock=now_ms)
        rows = log.accesses(person, limit=limit)
    if as_json:
        cli.print_json(rows)
        return
    if not rows:
        click.echo("Nobody has found, read, exported or erased such data.", err=True)
    for access in rows:
        click.echo(f"{access.id:>8}  {_day(access.at)}  {access.action:<15}  {access.by}")


@user.command("find", epilog=cli.example("tactful user find ada@example.com --by properties.email"))
@cli.with_settings
@cli.json_option
@click.argument("value")
@click.option(
    "--by",
    default="user_id",
    show_default=True,
    help="Kind of VALUE: properties.NAME, context.NAME, user_id, device_id, session_id, event_id "
    "or recommendation_id.",
)
def find(settings: Settings, value: str, as_json: bool, by: str) -> None:
    """List the users in whose data VALUE occurs, the latest first.

    Descriptions and events are searched, beside a running server, too.
    """
    with _installation(settings) as installation:
        request = _request(by, value)
        identifier = Identifier(request.by, request.value)
        matches = _find(installation, [identifier], quiet=as_json)[identifier]
        for match in matches.people:
            installation.accesses.record(match.person, "find", by=login_and_host())
    if as_json:
        cli.print_json(matches)
        return
    for match in matches.people:
        click.echo(f"{match.person}  {match.records} records, the last {_day(match.last_at)}")
    if matches.more:
        click.echo("there may be more")
    elif not matches.people:
        click.echo("nobody is stored with this value")


@user.command(
    "erase",
    epilog=cli.example("tactful user erase ada --dry-run", "tactful user erase --from people.tsv"),
)
@cli.with_settings
@cli.json_option
@click.argument("person", required=False)
@click.option(
    "--from",
    "file",
    type=cli.existing_file,
    help="File of persons, one a line: an id, or BY, VALUE (and PERSONS) separated by tabs.",
)
@click.option("--dry-run", is_flag=True, help="Only list the person's stored data; change nothing.")
@click.option("--rebuild", is_flag=True, help="Recompute state from the log without the person.")
@click.option("--again", is_flag=True, help="Repeat all earlier erasures; after a restore.")
def erase(
    settings: Settings,
    person: str | None,
    as_json: bool,
    file: Path | None,
    dry_run: bool,
    rebuild: bool,
    again: bool,
) -> None:
    """Erase PERSON, or many with --from, and finish every pending erasure.

    With --dry-run nothing changes, and a server may be running.

    New data of the person are refused from now on. Stored data are removed at once or, if a server
    uses the data directory, by the server within seconds to minutes; its receipt names the time.
    Without PERSON, only pending erasures are finished.
    PERSON is a user id, or device: and a device id. A line of the file may name a value instead, as
    `properties.email` and an address; if several persons have it, all of them must follow. Refused
    lines are reported, exit code 6, and the others are erased.
    """
    if file is not None and (person is not None or dry_run):
        raise ConfigError("--from goes with neither a PERSON nor --dry-run")
    if dry_run and person is None:
        raise ConfigError("--dry-run needs to know who: name a person")
    with _installation(settings) as installation:
        if rebuild:
            check_rebuild(settings)
        if dry_run and person is not None:
            _preview(installation, person, as_json=as_json)
            return
        requests = [_request("user_id", person)] if person is not None else []
        results = _request_all(installation, _requests_in(file) if file else requests, as_json)
        held = contextlib.ExitStack()
        try:
            held.enter_context(exclusive(settings.storage.data))
        except StorageError:
            receipts = {e.receipt: e for result in results for e in result.erasures}
            if not results:
                raise
            if as_json:
                cli.print_json(results if file else [*receipts.values()])
            elif receipts:
                _report_waiting(settings, receipts, rebuild=rebuild)
            _exit_if_refused(results)
            return
        with held:
            if again:
                request_suppressed(installation)
            done = run_erasures(installation, rebuild=rebuild)
    if as_json:
        cli.print_json(_with_final(results, done) if file else done)
    else:
        _report_done(done)
    _exit_if_refused(results)


def _preview(installation: Installation, person: str, *, as_json: bool) -> None:
    with cli.reported_as(StorageError, StreamingError):
        steps = preview(installation, person)
    if as_json:
        cli.print_json(steps)
    for step in () if as_json else steps:
        click.echo(f"{step.place:<14} {step.removed:>9}  {step.note}")


def _report_done(done: Sequence[Erasure]) -> None:
    for erasure in done:
        click.echo(f"{erasure.receipt}: {erasure.state}")
        for step in erasure.steps:
            click.echo(f"  {step.place:<14} {step.removed:>9}  {step.note}")
    if not done:
        click.echo("no erasure waits")


def _exit_if_refused(results: Sequence[ErasureResult]) -> None:
    """End the command if a person was refused; the others were accepted."""
    if any(result.state == "refused" for result in results):
        click.get_current_context().exit(ExitCode.PARTLY_DONE)


def _request(by: str, value: str, people: Sequence[str] = ()) -> ErasureRequest:
    """Check the parts of a request; ConfigError without the value if one is wrong."""
    try:
        request = {"by": by, "value": value, "people": list(people)}
        return msgspec.convert(request, ErasureRequest)
    except msgspec.ValidationError as error:
        raise ConfigError(f"a person cannot be found: {error}") from None


def _requests_in(file: Path) -> list[ErasureRequest]:
    """Read a file of persons; ConfigError with the number of a line that is wrong."""
    requests: list[ErasureRequest] = []
    try:
        lines = file.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        by, *values = line.removesuffix("\r").split("\t")
        try:
            request = _request(by, values[0], values[1:]) if values else _request("user_id", by)
        except ConfigError as error:
            raise ConfigError(f"{file}:{number}: {error}") from None
        requests.append(request)
    return requests


def _request_all(
    installation: Installation, requests: Sequence[ErasureRequest], as_json: bool
) -> list[ErasureResult]:
    """Request erasures and print those that are refused."""
    find = partial(_find, installation, quiet=as_json)
    with cli.reported_as(StorageError, StreamingError):
        results = request_erasures(installation, requests, find, by=login_and_host())
    for number, result in enumerate(() if as_json else results, 1):
        if result.state == "refused":
            people = f": {', '.join(result.people)}" if result.people else ""
            click.echo(f"person {number} of {len(results)} was refused, {result.reason}{people}")
    return results


def _find(
    installation: Installation, identifiers: Collection[Identifier], *, quiet: bool
) -> Mapping[Identifier, PersonMatches]:
    with (
        cli.progress_bar(quiet=quiet, desc="search") as bar,
        cli.reported_as(StorageError, StreamingError),
        open_search(
            installation.settings, clock=installation.clock, progress=cli.advance(bar)
        ) as search,
    ):
        suppression = installation.suppression
        minimise = make_minimiser(installation.settings.minimise, lambda: suppression.keyring)
        return look_up(search, identifiers, erased=suppression.suppressed, minimise=minimise)


def _with_final(results: Sequence[ErasureResult], done: Sequence[Erasure]) -> list[ErasureResult]:
    """Replace receipts by the completed ones."""
    final = {erasure.receipt: erasure for erasure in done}
    return [
        msgspec.structs.replace(r, erasures=[final.get(e.receipt, e) for e in r.erasures])
        for r in results
    ]


def _report_waiting(settings: Settings, receipts: Mapping[str, Erasure], *, rebuild: bool) -> None:
    """Print receipts that a running server completes."""
    latest = max(receipt.due_at for receipt in receipts.values())
    click.echo(
        f"{', '.join(receipts)}: a server uses {settings.storage.data}. Nothing is taken or read "
        "of them any more, and it removes what there is of them now, by "
        f"{_day(latest)} at the latest"
    )
    if rebuild:
        click.echo("its state is not rebuilt: restart with `tactful serve --rebuild`")


@contextlib.contextmanager
def _installation(settings: Settings) -> Iterator[Installation]:
    with _metadata(settings) as metadata:
        suppression = open_suppression(settings, metadata, clock=now_ms)
        yield Installation(settings, metadata, suppression, now_ms)


@contextlib.contextmanager
def _metadata(settings: Settings) -> Iterator[Any]:
    if not settings.storage.data.is_dir():
        raise StorageError(f"{settings.storage.data}: there is no data directory here")
    with contextlib.closing(open_installation(settings)) as metadata:
        yield metadata


def _day(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at / 1000)) + " UTC"
