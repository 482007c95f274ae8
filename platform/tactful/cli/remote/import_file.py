"""``tactful import``, and ``tactful ingest``, its former name."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from tactful.cli import options as cli
from tactful.cli.exit_codes import ExitCode
from tactful.cli.remote.file_options import Understanding, understanding_options
from tactful.client import AsyncClient, Client
from tactful.client.routes import data as routes
from tactful.errors import StorageError
from tactful.imports.plan import as_json, described
from tactful.imports.progress import ProgressStore, state_directory
from tactful.imports.run import Job, Outcome, begin, end, prepare, preview, run
from tactful.schemas.data.imports import Import, UndoPreview
from tactful.util.clock import now_ms


@dataclass(frozen=True)
class _Sending:
    """Options of sending."""

    batch: int
    in_flight: int
    restart: bool
    preview: bool


_options = cli.with_options(
    click.argument("file", type=cli.existing_file),
    understanding_options,
    click.option(
        "--preview",
        "--dry-run",
        "preview",
        is_flag=True,
        help="Print the mapping and the first elements; send nothing.",
    ),
    click.option(
        "--restart", is_flag=True, help="Start at the beginning of FILE instead of resuming."
    ),
    click.option("--batch", type=click.IntRange(1, 1000), default=500, help="Elements a request."),
    click.option(
        "--in-flight",
        type=click.IntRange(1, 32),
        default=4,
        help="Requests sent at once; the server keeps their order.",
    ),
    cli.url_option,
    cli.key_file_option,
    cli.json_option,
)


def _grouped(command: Callable[..., None]) -> Callable[..., Any]:
    grouped = cli.grouped("sending", _Sending)(cli.grouped("given", Understanding)(command))
    return _options(grouped)


_EXAMPLES = cli.example(
    "tactful import orders.csv --preview",
    "tactful import orders.csv --map user=customer_no --time-zone Europe/Berlin",
    "tactful import ratings.tsv --columns user,item,rating,timestamp",
    "tactful import products.xml",
)


class _ImportCommand(click.Command):
    """Command with a file, and with the words `list` and `undo` in its place."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Use the command that the first argument names."""
        other = {"list": list_imports, "undo": undo_import}.get(args[0] if args else "")
        if other is None:
            return super().make_context(info_name, args, parent, **extra)
        return other.make_context(f"{info_name} {other.name}", args[1:], parent, **extra)


@click.command(
    "import", cls=_ImportCommand, epilog=_EXAMPLES, context_settings={"show_default": True}
)
@_grouped
def import_(
    file: Path,
    sending: _Sending,
    given: Understanding,
    url: str,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Send events, items or users of FILE to a server; run it again to resume.

    FILE is CSV, TSV, JSON lines, a JSON array, Parquet, Excel, a Google Merchant product feed or
    Shopify's product CSV; text may be packed by gzip. Columns are guessed and shown.

    `tactful import list` lists what was imported, `tactful import undo ID` takes one import out.
    """
    options = given.checked()
    store = ProgressStore(state_directory(os.environ, _home()))
    problem = None if sending.preview else store.problem()
    job = prepare(file, options, url, store, restart=sending.restart)
    job.folder = file.parent
    if problem is not None:
        job.notes.append(f"progress is not kept, so an interrupted run begins anew: {problem}")
    if sending.preview:
        _show_preview(job, as_json)
        return
    if not as_json:
        _show_plan(job)
    outcome = asyncio.run(_send(job, sending, url, key_file, as_json))
    if as_json:
        cli.print_json({**msgspec.to_builtins(outcome), "file": str(file), "plan": as_json_of(job)})
    else:
        _show_outcome(file, job, outcome)
    if outcome.rejected:
        raise SystemExit(ExitCode.PARTLY_DONE)


@click.command(
    "ingest",
    params=import_.params,
    epilog=cli.example("tactful ingest events.ndjson"),
    context_settings={"show_default": True},
)
@click.pass_context
def ingest(context: click.Context, /, **given: Any) -> None:
    """Send FILE to a server: the former name of ``tactful import``."""
    click.echo("tactful ingest is now called tactful import", err=True)
    context.invoke(import_, **given)


async def _send(
    job: Job, sending: _Sending, url: str, key_file: Path | None, as_json: bool
) -> Outcome:
    reader = job.reader
    scale = reader.unit == "B"
    bar = cli.progress_bar(
        quiet=as_json, total=reader.total, unit=reader.unit, unit_scale=scale, desc=reader.path.name
    )
    with bar:
        async with AsyncClient(url, cli.api_key(key_file), tls=cli.trust()) as client:
            shown = len(job.notes)
            await begin(job, client)
            for note in job.notes[shown:] if not as_json else ():
                click.echo(f"note: {note}", err=True)
            outcome = await run(
                job,
                client,
                batch=sending.batch,
                in_flight=sending.in_flight,
                advanced=bar.update,
                now_ms=now_ms,
            )
            await end(job, client, outcome)
            return outcome


def _show_plan(job: Job, *, err: bool = True) -> None:
    click.echo(f"{job.reader.path}: {job.reader.about}", err=err)
    for line in described(job.guess):
        click.echo(line, err=err)
    for note in job.notes:
        click.echo(f"note: {note}", err=err)
    if job.start.rows:
        click.echo(f"resumes behind row {job.start.rows:,} of an earlier run", err=err)


def _show_preview(job: Job, as_json: bool) -> None:
    elements, rejections = preview(job)
    if as_json:
        cli.print_json({**as_json_of(job), "elements": elements, "rejections": rejections.first})
        return
    _show_plan(job, err=False)
    click.echo("first elements as they would be sent:")
    for element in elements:
        click.echo(f"  {bytes(element).decode()}")
    for rejection in rejections.first:
        click.echo(
            f"{job.reader.path}:{rejection.row}: {rejection.code}: {rejection.message}", err=True
        )
    click.echo("nothing was sent (--preview)", err=True)


def as_json_of(job: Job) -> dict[str, Any]:
    """Return how a file is understood, for ``--json``."""
    return {"format": job.reader.about, **as_json(job.guess), "notes_of_run": job.notes}


def _show_outcome(file: Path, job: Job, outcome: Outcome) -> None:
    for rejection in outcome.rejections:
        click.echo(f"{file}:{rejection.row}: {rejection.code}: {rejection.message}", err=True)
    if outcome.rejected > len(outcome.rejections):
        reasons = ", ".join(f"{count:,} {code}" for code, count in outcome.rejected_by_code.items())
        click.echo(
            f"{outcome.rejected:,} rows were rejected, of which these are the first: {reasons}",
            err=True,
        )
    if job.start.rows and not outcome.rows:
        click.echo(
            f"nothing new: all of it was sent before, up to row {job.start.rows:,}; "
            "--restart sends it again"
        )
        return
    parts = [f"{outcome.accepted:,} accepted"]
    if outcome.kind == "events":
        parts.append(f"{outcome.duplicates:,} known before")
    parts.append(f"{outcome.rejected:,} rejected")
    if outcome.skipped:
        parts.append(f"{outcome.skipped:,} skipped")
    if outcome.repeated:
        parts.append(f"{outcome.repeated:,} repeated descriptions not sent again")
    click.echo(f"{', '.join(parts)} (from row {outcome.resumed_at:,})")


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None


@click.command("list", epilog=cli.example("tactful import list --json"))
@click.option("--limit", type=click.IntRange(1, 1000), default=20, help="Number of imports.")
@cli.url_option
@cli.key_file_option
@cli.json_option
def list_imports(limit: int, url: str, key_file: Path | None, as_json: bool) -> None:
    """List the imports of a server, newest first; needs the scope admin."""
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        page = client.run(routes.imports(limit=limit))
    if as_json:
        cli.print_json(page)
        return
    for each in page.imports:
        counts = f"{each.accepted:,} accepted, {each.refused:,} refused"
        click.echo(f"{each.id}  {_day(each.begun_at)}  {each.state:8}  {each.kind:6}  {counts}")
        click.echo(f"    {each.name}, by {each.begun_by}{_steps_of(each)}")
    if not page.imports:
        click.echo("nothing was imported yet: tactful import FILE")


@click.command("undo", epilog=cli.example("tactful import undo 9f3c5e0a1b2c4d5e9f3c5e0a1b2c4d5e"))
@click.argument("import_id", metavar="ID")
@click.option("--preview", "--dry-run", "only_preview", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@cli.url_option
@cli.key_file_option
@cli.json_option
def undo_import(
    import_id: str, only_preview: bool, yes: bool, url: str, key_file: Path | None, as_json: bool
) -> None:
    """Take an import out of log, state and features, while the server runs.

    It is counted and asked first. Published statistics, trained models and sent actions stay.
    """
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        seen = client.run(routes.preview_undo(import_id))
        if as_json and only_preview:
            cli.print_json(seen)
        elif not as_json:
            _show_undo(seen)
        if only_preview:
            return
        if seen.problem:
            raise StorageError(f"the import cannot be undone: {seen.problem}")
        if not yes and not as_json:
            click.confirm("Undo it?", abort=True)
        undone = client.run(routes.undo_import(import_id))
    if as_json:
        cli.print_json(undone)
    else:
        click.echo(f"{undone.state}: tactful import list shows the steps")


def _show_undo(seen: UndoPreview) -> None:
    click.echo(f"{seen.events:,} events, {seen.users:,} users and {seen.items:,} items")
    click.echo(f"{seen.people:,} people and devices lose what it brought of them")
    click.echo(
        f"{seen.restored_items:,} items get their other description back, "
        f"{seen.withdrawn_items:,} become unavailable"
    )
    for model in seen.models:
        click.echo(f"{model.name} {model.version} was trained since, and keeps what it learned")
    if seen.problem:
        click.echo(f"it cannot be undone: {seen.problem}", err=True)


def _day(at: int) -> str:
    return f"{dt.datetime.fromtimestamp(at / 1000, dt.UTC):%Y-%m-%d %H:%M}"


def _steps_of(each: Import) -> str:
    if each.undo is None:
        return ""
    steps = ", ".join(f"{step.place} {step.removed:,}" for step in each.undo.steps) or "no step yet"
    waits = f"; waits: {each.undo.problem}" if each.undo.problem else ""
    return f"; undo by {each.undo.requested_by}: {steps}{waits}"
