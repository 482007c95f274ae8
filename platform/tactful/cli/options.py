"""Options, output, progress bars and error handling that several commands share."""

from __future__ import annotations

import datetime as dt
import os
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from tqdm import tqdm

from tactful.client.trust import tls_context
from tactful.config.load import load_settings, load_tenant
from tactful.config.settings import Settings
from tactful.config.tenants import model_store
from tactful.errors import ConfigError, TactfulError
from tactful.metadata.directory_lock import open_directory
from tactful.util.addresses import with_scheme
from tactful.util.jobs import Job
from tactful_streaming.storage.objects import is_url

CA, CERTIFICATE = "TACTFUL_CA", "TACTFUL_CERTIFICATE"
"""Variables that name the files of `--ca` and `--certificate`."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Address(click.ParamType[str]):
    """URL of a server, whose scheme may be left out."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return with_scheme(str(value))


class _Place(click.ParamType["Path | str"]):
    """A path, or the URL of a place of objects, such as a bucket."""

    name = "place"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | str:
        return str(value) if is_url(str(value)) else Path(value)


class _Moment(click.ParamType[int]):
    """A time as in ISO 8601, of UTC without an offset; its value is in epoch milliseconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            time = dt.datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time such as 2026-03-14T15:00:00Z", param, ctx)
        utc = time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time
        return round(utc.timestamp() * 1000)


address = _Address()
moment = _Moment()
place = _Place()
any_path = click.Path(path_type=Path)
any_file = click.Path(dir_okay=False, path_type=Path)
any_directory = click.Path(file_okay=False, path_type=Path)
existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)
existing_directory = click.Path(exists=True, file_okay=False, path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
config_option = click.option("--config", type=any_path, help="Settings file.")
data_option = click.option("--data", type=any_path, help="Data directory.")
tenant_option = click.option("--tenant", help="Shop of an installation of several.")

key_file_option = click.option(
    "--key-file", type=existing_file, help="File with the API key; else TACTFUL_API_KEY is used."
)
verify_key_option = click.option(
    "--verify-key", type=existing_file, help="File with the public key of another installation."
)
accept_unsigned_option = click.option(
    "--accept-unsigned", is_flag=True, help="Accept what no known key has signed."
)
by_option = click.option(
    "--by", help="Author of the change, for the audit log; default: your login and host."
)
reason_option = click.option(
    "--reason", default="", show_default=False, help="Reason, for the audit log."
)
outcome_option = click.option(
    "--outcome",
    "outcomes",
    multiple=True,
    default=("click", "add_to_cart", "purchase"),
    help="Event type that counts as taking a recommended item; may be repeated.",
)
people_per_day_option = click.option(
    "--people-per-day",
    type=click.FloatRange(1, 1e9),
    help="New people per day; of rollouts, instead of those of the last 28 days.",
)
outcome_hours_option = click.option(
    "--outcome-hours",
    type=click.FloatRange(min=0.01),
    default=24.0,
    help="Hours after a recommendation in which such events count.",
)


def example(*lines: str) -> str:
    """Return the end of a help text: commands to copy, one a line."""
    return "\n".join(("\b", "Example:", *(f"  {line}" for line in lines)))


def with_options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Return a decorator that adds `options` to a command in this order."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _kept(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    """Keep a file of TLS for `trust`; commands have no argument of it."""
    ctx.meta[f"tactful.{param.name}"] = value


def url_option(command: _Command) -> _Command:
    """Add `--url`, and `--ca` and `--certificate`, which `trust` reads."""
    options = (
        click.option(
            "--url",
            envvar="TACTFUL_URL",
            type=address,
            default="http://127.0.0.1:8420",
            help="Address of the server; without a scheme http for this machine, else https.",
        ),
        click.option(
            "--ca",
            envvar=CA,
            type=existing_file,
            expose_value=False,
            callback=_kept,
            help="PEM file of the authority of the server; default: the usual authorities.",
        ),
        click.option(
            "--certificate",
            envvar=CERTIFICATE,
            type=existing_file,
            expose_value=False,
            callback=_kept,
            help="PEM file of a certificate and its key, for a server that asks for one.",
        ),
    )
    return with_options(*options)(command)


def settings_with(
    *, opens: bool = True, for_all: bool = False, **keys: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds `--config`, `--data` and `--tenant` and passes `settings`.

    Options of the command override settings: ``settings_with(port="server.port")``. The permissions
    of an existing data directory are checked, if the command `opens` it. A command `for_all` needs
    no `--tenant` in an installation of several shops; the settings are then those of the
    installation.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def call(config: Path | None, data: Path | None, tenant: str | None, **values: Any) -> Any:
            overrides = {key: values.pop(name) for name, key in keys.items()}
            settings = load_settings(config, overrides={"storage.data": data, **overrides})
            if tenant is not None:
                if data is not None:
                    raise click.UsageError("--tenant has a data directory: leave --data out")
                settings = load_tenant(settings, tenant, overrides=overrides)
            if settings.tenants.name:
                os.environ.update(model_store(settings))
            elif settings.tenants.directory != Path() and not for_all:
                raise ConfigError("this installation has tenants: name one by --tenant")
            if opens and settings.storage.data.is_dir():
                open_directory(settings.storage.data)
            return command(settings=settings, **values)

        return with_options(config_option, data_option, tenant_option)(call)

    return decorate


def with_installation(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--config` and pass the `settings` of the installation, whatever its tenants."""

    @wraps(command)
    def call(config: Path | None, **values: Any) -> Any:
        settings: Settings = load_settings(config)
        return command(settings=settings, **values)

    return config_option(call)


with_settings = settings_with()


def grouped(argument: str, struct: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that passes the options of a dataclass as one argument.

    ::

        @click.command()
        @click.option("--rounds", type=int, default=500)
        @grouped("plan", Plan)  # @dataclass class Plan: rounds: int = 500
        def train(plan: Plan) -> None: ...

    Fields that no option names keep their defaults.
    """
    names = [field.name for field in fields(struct)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def call(**values: Any) -> None:
            members = {name: values.pop(name) for name in names if name in values}
            command(**{argument: struct(**members)}, **values)

        return call

    return decorate


def trusted_files() -> dict[str, Path]:
    """Return the files of `--ca` and `--certificate` that are given, by their variables."""
    context = click.get_current_context(silent=True)
    kept = {} if context is None else context.meta
    files = {}
    for name, variable in (("ca", CA), ("certificate", CERTIFICATE)):
        path = kept.get(f"tactful.{name}") or os.environ.get(variable)
        if path:
            files[variable] = Path(path)
    return files


def trust() -> ssl.SSLContext | None:
    """Return the certificates of TLS to trust and to show; None for the usual authorities."""
    files = trusted_files()
    return tls_context(files.get(CA), files.get(CERTIFICATE))


def api_key(key_file: Path | None) -> str | None:
    """Return the API key from a file or else from TACTFUL_API_KEY; None without either."""
    if key_file is not None:
        return key_file.read_text("utf-8").strip()
    return os.environ.get("TACTFUL_API_KEY")


def print_json(value: object, *, pretty: bool = False) -> None:
    """Print a value as one line of JSON, or indented."""
    text = msgspec.json.encode(value)
    click.echo(msgspec.json.format(text, indent=2) if pretty else text)


def progress_bar(*, quiet: bool = False, **options: Any) -> tqdm[Any]:
    """Return a bar on standard error; hidden if `quiet` or if that is no terminal."""
    return tqdm(disable=quiet or not sys.stderr.isatty(), **options)


def advance(bar: tqdm[Any], job: Job | None = None) -> Callable[[int, int], None]:
    """Return a callback that sets a bar, and the progress of a job, to (done, total)."""

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if job is not None:
            job.advance(done, total)

    return progress


@contextmanager
def reported_as(kind: type[TactfulError], *errors: type[Exception]) -> Iterator[None]:
    """Convert errors of a library into an error that ends the command with one line."""
    try:
        yield
    except errors as error:
        raise kind(str(error)) from error
