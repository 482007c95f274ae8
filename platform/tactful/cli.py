"""The command line.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 no server answers, 4 the server
refused. What a program may want to read goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import Any, TypeVar, cast

import click
import msgspec

from tactful.backup_cli import backup, restore
from tactful.command_options import json_option
from tactful.config import Settings, load_settings
from tactful.coupon_cli import coupons
from tactful.errors import ApiError, ConfigError, ConnectionFailed, TactfulError
from tactful.experiment_cli import experiment
from tactful.expiry_cli import expire
from tactful.features_cli import features
from tactful.federated_cli import federated
from tactful.flink_cli import flink
from tactful.model_cli import demo, models, train
from tactful.privacy_cli import privacy
from tactful.rules_cli import rules
from tactful.sink_cli import sink
from tactful.tuner_cli import tuner
from tactful.user_cli import user
from tactful.worker_cli import worker

F = TypeVar("F", bound=Callable[..., Any])

_URL = "http://127.0.0.1:8420"


class _Failure(click.ClickException):
    """Ends the command with one line and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        click.echo(f"tactful: {self.message}", err=True)


class _Commands(click.Group):
    """A group whose commands fail with one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise _Failure(str(error), 2) from error
        except ConnectionFailed as error:
            raise _Failure(str(error), 3) from error
        except ApiError as error:
            raise _Failure(str(error), 4) from error
        except TactfulError as error:
            raise _Failure(str(error), 1) from error


def _config_options(command: F) -> F:
    """Options of commands that read the settings."""
    for option in (
        click.option("--data", type=click.Path(path_type=Path), help="Data directory."),
        click.option("--config", type=click.Path(path_type=Path), help="Settings file."),
    ):
        command = option(command)
    return command


def _server_options(command: F) -> F:
    """Options of commands that call a server. The API key comes from TACTFUL_API_KEY or a file."""
    for option in (
        click.option(
            "--key-file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="File with the API key; else TACTFUL_API_KEY is used.",
        ),
        click.option("--url", envvar="TACTFUL_URL", default=_URL, show_default=True),
    ):
        command = option(command)
    return command


@click.group(cls=_Commands)
@click.version_option(metadata.version("tactful"), prog_name="tactful")
def main() -> None:
    """Real-time personalisation that does not hold people's data hostage."""


for _command in (
    *(train, models, demo, features, federated, privacy),
    *(rules, experiment, coupons, tuner, user, backup, restore, expire, worker, sink, flink),
):
    main.add_command(_command)


@main.command()
@_config_options
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="TCP port; 0 takes a free one.")
@click.option("--dev", is_flag=True, default=None, help="No API keys; loopback only.")
@click.option("--workers", type=int, help="Further processes that answer requests.")
@click.option("--rebuild", is_flag=True, help="Compute all features again from the log.")
@click.option("--supervise", is_flag=True, help="Start it again when it crashes.")
@json_option
def serve(
    config: Path | None,
    data: Path | None,
    host: str | None,
    port: int | None,
    dev: bool | None,
    workers: int | None,
    rebuild: bool,
    supervise: bool,
    as_json: bool,
) -> None:
    """Run ingestion, engine and recommendation; in one process, or with several to answer."""
    settings = load_settings(
        config,
        overrides={
            "storage.data": data,
            "server.host": host,
            "server.port": port,
            "server.dev": dev,
            "server.workers": workers,
        },
    )
    if supervise:
        from tactful.supervision import supervise_this

        if rebuild:
            raise click.UsageError("--supervise not with --rebuild: a crash would begin it again")
        supervise_this()
    from tactful import logs

    logs.configure(settings.logging)

    from tactful.data_directory import exclusive
    from tactful.http import make_application
    from tactful.recommender import build, open_shown
    from tactful.server import listen, make_server, run
    from tactful.service import Platform
    from tactful.statistics import open_statistics
    from tactful_streaming import StreamingError

    server = settings.server
    try:
        listener = listen(server.host, server.port)
    except OSError as error:
        raise _Failure(f"{server.host}:{server.port}: {error.strerror or error}", 1) from error
    with listener:
        with exclusive(settings.storage.data):
            pass  # a restore that was broken off is finished before anything is opened
        try:
            statistics = open_statistics(settings)
            consumers: dict[str, Any] = {} if statistics is None else statistics.passengers()
            trends = None if statistics is None else statistics.trends()
            shown = open_shown(settings)
            if shown is not None:
                consumers["shown"] = shown
            platform = Platform.open(
                settings,
                partial(build, shown=shown, rising=None if trends is None else trends.look),
                consumers=consumers,
                statistics=statistics,
                rebuild=rebuild,
            )
        except StreamingError as error:
            raise _Failure(str(error), 1) from error
        bound = listener.getsockname()[1]
        name = f"[{server.host.strip('[]')}]" if ":" in server.host else server.host
        url = f"http://{name}:{bound}"

        def started() -> None:
            if as_json:
                _print_json({"url": url, "pid": os.getpid(), "dev": server.dev})
            else:
                click.echo(f"tactful serves on {url}{' without API keys' if server.dev else ''}")
            if not server.dev and not any(k.revoked_at is None for k in platform.keys.list()):
                click.echo(
                    "There is no API key yet: `tactful keys create --scope admin` makes one.",
                    err=True,
                )

        if server.workers:
            from tactful.crew import run_crew

            served = run_crew(
                platform,
                listener,
                build="tactful.recommender:build",
                count=server.workers,
                started=started,
                shown=shown,
                trends=trends,
            )
        else:
            served = run(make_server(make_application(platform), server), listener, started=started)
        if statistics is not None:
            statistics.close()
        if not served:
            platform.close()
            raise _Failure("the server could not start; its log says why", 1)


@main.group()
def keys() -> None:
    """Make, list and revoke API keys."""


def _key_store(config: Path | None, data: Path | None) -> Any:
    from tactful.connections import open_keys

    return open_keys(load_settings(config, overrides={"storage.data": data}))


@keys.command("create")
@_config_options
@click.option("--scope", "scopes", multiple=True, required=True, help="May be given repeatedly.")
@click.option("--note", default="", help="Who gets it or what for.")
@json_option
def keys_create(
    config: Path | None, data: Path | None, scopes: tuple[str, ...], note: str, as_json: bool
) -> None:
    """Make a key and print it; it is not shown again."""
    with _key_store(config, data) as (_, store):
        key, about = store.create(scopes, note=note)
    if as_json:
        _print_json({"key": key, "id": about.id, "scopes": sorted(about.scopes)})
    else:
        click.echo(key)
        click.echo("Keep it now: only its hash is stored.", err=True)


@keys.command("list")
@_config_options
@json_option
def keys_list(config: Path | None, data: Path | None, as_json: bool) -> None:
    """List the keys, without the keys."""
    with _key_store(config, data) as (_, store):
        known = store.list()
    if as_json:
        _print_json([{**msgspec.to_builtins(key), "scopes": sorted(key.scopes)} for key in known])
        return
    for key in known:
        state = "valid" if key.revoked_at is None else "revoked"
        click.echo(f"{key.id}  {state:<7}  {','.join(sorted(key.scopes))}  {key.note}")


@keys.command("revoke")
@_config_options
@click.argument("key_id")
def keys_revoke(config: Path | None, data: Path | None, key_id: str) -> None:
    """Make a key invalid; a running server notices within a second."""
    with _key_store(config, data) as (_, store):
        store.revoke(key_id)
    click.echo(f"{key_id} is revoked.", err=True)


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--kind", type=click.Choice(["events", "items", "users"]), default="events", show_default=True
)
@click.option("--batch", type=click.IntRange(1, 1000), default=500, show_default=True)
@click.option("--restart", is_flag=True, help="Forget how far an earlier run came.")
@_server_options
@json_option
def ingest(
    file: Path,
    kind: str,
    batch: int,
    restart: bool,
    url: str,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Send an NDJSON file; run it again to go on where it stopped."""
    from tqdm import tqdm

    from tactful.client import Client, Kind
    from tactful.ingest import ingest_file

    quiet = as_json or not sys.stderr.isatty()
    size = file.stat().st_size
    with (
        Client(url, _api_key(key_file)) as client,
        tqdm(total=size, unit="B", unit_scale=True, disable=quiet, desc=file.name) as bar,
    ):
        outcome = ingest_file(
            client, file, cast(Kind, kind), batch=batch, restart=restart, advanced=bar.update
        )
    if as_json:
        _print_json(outcome)
    else:
        for line, refusal in outcome.rejected:
            click.echo(f"{file}:{line}: {refusal.code}: {refusal.message}", err=True)
        click.echo(
            f"{outcome.accepted} accepted, {outcome.duplicates} known before, "
            f"{len(outcome.rejected)} refused (from line {outcome.resumed_at})"
        )
    if outcome.rejected:
        raise SystemExit(1)


@main.command()
@click.option("--user", "user_id", help="Whom it is for.")
@click.option("--device", "device_id", help="Device id, where the person is not known.")
@click.option("--count", type=click.IntRange(1, 200), default=10, show_default=True)
@click.option("--category", help="Only items of this category.")
@click.option("--after", help="Wait until the log is applied up to this position.")
@click.option("--explain", is_flag=True, help="Show how it came about.")
@_server_options
@json_option
def recommend(
    user_id: str | None,
    device_id: str | None,
    count: int,
    category: str | None,
    after: str | None,
    explain: bool,
    url: str,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Ask a server for recommendations."""
    from tactful.client import Client
    from tactful.messages import RecommendRequest

    request = RecommendRequest(
        user_id=user_id,
        device_id=device_id,
        count=count,
        category=category,
        after=int(after) if after is not None and after.isdecimal() else after,
        explain=explain,
    )
    with Client(url, _api_key(key_file)) as client:
        answer = client.recommend(request)
    if as_json:
        _print_json(answer)
        return
    for place, item in enumerate(answer.items, 1):
        click.echo(f"{place:>3}  {item.item_id}  {item.score:.4f}  {item.channel}")
    if answer.fallback:
        click.echo(answer.fallback, err=True)
    if answer.explanation:
        click.echo(msgspec.json.format(msgspec.json.encode(answer.explanation)).decode())


@main.command()
@_config_options
@click.option("--port", type=int, help="Port to look at.")
@json_option
def doctor(config: Path | None, data: Path | None, port: int | None, as_json: bool) -> None:
    """Check everything a server needs; fails when something needed is missing."""
    from tactful.doctor import examine

    settings: Settings = load_settings(
        config, overrides={"storage.data": data, "server.port": port}
    )
    checks = []
    for check in examine(settings):
        checks.append(check)
        if not as_json:
            click.echo(f"{check.state:<8} {check.name:<16} {check.said}")
    if as_json:
        _print_json(checks)
    if any(check.state == "failed" for check in checks):
        raise SystemExit(1)


@main.command()
@click.option("--url", envvar="TACTFUL_URL", default=_URL, show_default=True)
@click.option("--port", type=int, default=8501, show_default=True, help="Port of the dashboard.")
def dashboard(url: str, port: int) -> None:
    """Open the dashboard of a server; its key comes from TACTFUL_API_KEY."""
    package = util.find_spec("tactful_ui")
    if util.find_spec("streamlit") is None or package is None or package.origin is None:
        raise _Failure("the dashboard is not installed: pip install 'tactful[dashboard]'", 1)
    page = Path(package.origin).with_name("app.py")
    command = [sys.executable, "-m", "streamlit", "run", str(page), f"--server.port={port}"]
    command += ["--server.address=127.0.0.1", "--browser.gatherUsageStats=false"]
    raise SystemExit(subprocess.call(command, env={**os.environ, "TACTFUL_URL": url}))


def _api_key(key_file: Path | None) -> str | None:
    if key_file is not None:
        return key_file.read_text("utf-8").strip()
    return os.environ.get("TACTFUL_API_KEY")


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.encode(value))
