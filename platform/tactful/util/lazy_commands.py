"""Click groups that import the module of a command when the command is invoked."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

import click

from tactful.errors import TactfulError
from tactful.util.extras import missing_module


class LazyCommand(NamedTuple):
    """Command that is not imported yet."""

    place: str  # module and attribute, such as ``"tactful.cli.serve:serve"``
    help: str  # first sentence of its help text, shown in the list of commands


class LazyGroup(click.Group):
    """Group that knows the names and short help texts of its commands without importing them.

    ``LazyGroup(lazy={"serve": LazyCommand("tactful.cli.serve:serve", "Run a server.")})``
    """

    def __init__(
        self, *args: Any, lazy: Mapping[str, LazyCommand] | None = None, **kwargs: Any
    ) -> None:
        """Make a group of `lazy` commands; further ones can be added as to any group."""
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*self.lazy, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; raise `TactfulError` if a package that it needs is missing."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, attribute = self.lazy[cmd_name].place.split(":")
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ImportError as error:
            if (missing := missing_module(error)) is None:
                raise
            raise TactfulError(f"{ctx.command_path} {cmd_name}: {missing}") from error
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; the error of an unknown one proposes names that are close."""
        name, known = args[0], self.list_commands(ctx)
        if name in known or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        near = get_close_matches(name, known, n=2)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see --help"
        raise click.UsageError(f"there is no command {name!r}; {hint}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for ``--help``."""
        names = self.list_commands(ctx)
        width = formatter.width - 6 - max(map(len, names), default=0)
        rows = []
        for name in names:
            if name in self.lazy:
                stub = click.Command(name, help=self.lazy[name].help)
                rows.append((name, stub.get_short_help_str(width)))
            else:
                rows.append((name, self.commands[name].get_short_help_str(width)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
