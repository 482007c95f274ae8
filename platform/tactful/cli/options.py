"""Options that several commands share, and their grouping into structs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
config_option = click.option("--config", type=click.Path(path_type=Path), help="Settings file.")
data_option = click.option("--data", type=click.Path(path_type=Path), help="Data directory.")
url_option = click.option(
    "--url",
    envvar="TACTFUL_URL",
    default="http://127.0.0.1:8420",
    show_default=True,
    help="Address of the server.",
)
key_file_option = click.option(
    "--key-file",
    type=existing_file,
    help="File with the API key; else TACTFUL_API_KEY is used.",
)
by_option = click.option(
    "--by", help="Author of the change, for the audit log; default: your login and host."
)
outcome_option = click.option(
    "--outcome",
    "outcomes",
    multiple=True,
    default=("click", "add_to_cart", "purchase"),
    show_default=True,
    help="Event type that counts as taking a recommended item; may be repeated.",
)
outcome_hours_option = click.option(
    "--outcome-hours",
    type=click.FloatRange(min=0.01),
    default=24.0,
    show_default=True,
    help="Hours after a recommendation in which such events count.",
)


def with_options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Return a decorator that adds `options` to a command in this order."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


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


def api_key(key_file: Path | None) -> str | None:
    """Return the API key from a file or else from TACTFUL_API_KEY; None without either."""
    if key_file is not None:
        return key_file.read_text("utf-8").strip()
    return os.environ.get("TACTFUL_API_KEY")
