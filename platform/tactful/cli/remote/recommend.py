"""``tactful recommend`` and ``dashboard``: uses of a server over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import click
import msgspec

from tactful.cli import options as cli
from tactful.cli.exit_codes import ExitCode
from tactful.client import Client
from tactful.client.recommend_file import read_users, recommend_file
from tactful.errors import TactfulError
from tactful.schemas.fields import Moment
from tactful.schemas.item_filter import ItemFilter
from tactful.schemas.recommendations import RecommendRequest
from tactful.util.signals import end_process, leave, on_stop_signals

_SHOWN = 20
_END_S = 10.0  # after SIGTERM; then SIGKILL


def _moment(context: click.Context, parameter: click.Parameter, text: str | None) -> dict[str, Any]:
    """Return the fields of a request for an option that names a time."""
    if text is None:
        return {}
    if text == "last":
        return {"as_of": "last"}
    try:
        moment = msgspec.convert(int(text) if text.isdecimal() else text, Moment)
    except msgspec.ValidationError:
        raise click.BadParameter(
            "write last, a time such as 2026-03-01T12:00:00Z, or milliseconds since 1970"
        ) from None
    return {"timestamp": moment}


@click.command(
    epilog=cli.example(
        "tactful recommend --user ada --count 5", "tactful recommend --user ada --as-of last"
    )
)
@click.option("--user", "user_id", help="User id.")
@click.option("--device", "device_id", help="Device id, if the user is unknown.")
@click.option("--count", type=click.IntRange(1, 200), default=10)
@click.option("--category", help="Only items of this category.")
@click.option(
    "--filter", "condition", help='Only items that pass, as JSON: {"field": "size", "in": ["M"]}.'
)
@click.option(
    "--users", type=cli.existing_file, help="File of user ids, one a line or a CSV column user_id."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --users: .csv or .parquet file to write; a killed run resumes.",
)
@click.option("--page", help="Page or letter that shows them, for placement rules.")
@click.option(
    "--as-of",
    metavar="last|TIME",
    callback=_moment,
    help="Answer for another time: last, of the latest event; or RFC 3339, or milliseconds.",
)
@click.option("--after", help="Wait until the log is applied up to this position.")
@click.option("--explain", is_flag=True, help="Explain the recommendation.")
@cli.url_option
@cli.key_file_option
@cli.json_option
def recommend(
    condition: str | None,
    users: Path | None,
    out: Path | None,
    page: str | None,
    as_of: dict[str, Any],
    after: str | None,
    url: str,
    key_file: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Request recommendations from a server, for one user or for all of a file.

    For a newsletter: tactful recommend --users customers.csv --out letters.csv --page newsletter
    """
    request = RecommendRequest(
        filter=_parsed(condition),
        context={} if page is None else {"page": page},
        after=int(after) if after is not None and after.isdecimal() else after,
        **as_of,
        **asked,
    )
    if (users is None) != (out is None):
        raise click.UsageError("--users and --out come together")
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        if users is not None and out is not None:
            _recommend_all(client, users, out, request, as_json=as_json)
            return
        answer = client.recommend(request)
    if as_json:
        cli.print_json(answer)
        return
    for place, item in enumerate(answer.items, 1):
        click.echo(f"{place:>3}  {item.item_id}  {item.score:.4f}  {item.channel}")
    if answer.fallback:
        click.echo(answer.fallback, err=True)
    if answer.explanation:
        click.echo(msgspec.json.format(msgspec.json.encode(answer.explanation)).decode())


def _parsed(condition: str | None) -> ItemFilter | None:
    if condition is None:
        return None
    try:
        return msgspec.json.decode(condition, type=ItemFilter)
    except msgspec.DecodeError as error:
        raise click.BadParameter(str(error), param_hint="--filter") from error


def _recommend_all(
    client: Client, users: Path, out: Path, request: RecommendRequest, *, as_json: bool
) -> None:
    """Write the recommendations of all users of a file; exit with 6 if some have none."""
    if request.subject is not None:
        raise click.UsageError("--users names the users: leave out --user and --device")
    total = len(read_users(users))
    with cli.progress_bar(quiet=as_json, total=total, unit="user", desc=out.name) as bar:
        outcome = recommend_file(client, users, out, request, advanced=bar.update)
    if as_json:
        cli.print_json(outcome)
    else:
        for place, problem in outcome.problems[:_SHOWN]:
            reason = problem.detail or problem.title
            click.echo(f"user {place} of {users}: {problem.code}: {reason}", err=True)
        if (more := len(outcome.problems) - _SHOWN) > 0:
            click.echo(f"and {more:,} more", err=True)
        click.echo(f"{out}: {outcome.rows:,} rows of {outcome.users:,} users")
    if outcome.problems:
        raise SystemExit(ExitCode.PARTLY_DONE)


@click.command(epilog=cli.example("tactful dashboard --url localhost:8420"))
@cli.url_option
@click.option("--port", default=8501, help="Port of the dashboard.")
def dashboard(url: str, port: int) -> None:
    """Open the dashboard of a server; its key comes from TACTFUL_API_KEY."""
    package = util.find_spec("tactful_ui")
    if util.find_spec("streamlit") is None or package is None or package.origin is None:
        raise TactfulError("the dashboard is not installed: pip install 'tactful[dashboard]'")
    page = Path(package.origin).with_name("app.py")
    command = [sys.executable, "-m", "streamlit", "run", str(page), f"--server.port={port}"]
    command += ["--server.address=127.0.0.1", "--browser.gatherUsageStats=false"]
    told = {"TACTFUL_URL": url, **{name: str(it) for name, it in cli.trusted_files().items()}}
    with (
        on_stop_signals(leave),
        subprocess.Popen(command, env={**os.environ, **told}) as process,
    ):
        try:
            code = process.wait()
        finally:
            end_process(process, _END_S)
    if code:
        raise TactfulError(f"the dashboard ended with the exit code {code}")
