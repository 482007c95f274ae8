"""Options by which a file is understood, of every command that reads one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import click

from tactful.cli import options as cli
from tactful.client import Kind
from tactful.errors import ConfigError
from tactful.imports.options import Format, ImportOptions


@dataclass(frozen=True)
class Understanding:
    """Options of `ImportOptions` as click gives them."""

    kind: Kind | None
    format: Format | None
    maps: tuple[str, ...]
    constants: tuple[str, ...]
    types: tuple[str, ...]
    date_order: Literal["dmy", "mdy"] | None
    time_zone: str | None
    decimal: Literal["point", "comma"] | None
    encoding: str | None
    delimiter: str | None
    columns: str | None
    sheet: str | None
    order: Literal["time", "file"] | None

    def checked(self) -> ImportOptions:
        """Return the options.

        Raises:
            ConfigError: if the delimiter is no single character.
        """
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.columns is not None:
            values["columns"] = tuple(name.strip() for name in self.columns.split(","))
        if self.delimiter is not None:
            sign = {"tab": "\t", "\\t": "\t"}.get(self.delimiter, self.delimiter)
            if sign != "::" and (len(sign) != 1 or sign in '"\r\n'):
                raise ConfigError(f"--delimiter {self.delimiter!r}: give one character, tab or ::")
            values["delimiter"] = sign
        return ImportOptions(**values)


understanding_options = cli.with_options(
    click.option(
        "--kind", type=click.Choice(get_args(Kind)), help="What a row is; guessed by default."
    ),
    click.option(
        "--map",
        "maps",
        multiple=True,
        metavar="TARGET=COLUMN",
        help="Column of a field, such as user=customer_no, price=Preis or properties.colour=Farbe; "
        "DATE+TIME joins two columns; without a column the field stays empty. Repeatable.",
    ),
    click.option(
        "--set",
        "constants",
        multiple=True,
        metavar="TARGET=VALUE",
        help="Value of a field in all rows, such as type=purchase. Repeatable.",
    ),
    click.option(
        "--map-type",
        "types",
        multiple=True,
        metavar="WORD=TYPE",
        help="Type of the events that the file calls WORD, such as order=purchase; without a type "
        "rows with the word are skipped. Repeatable.",
    ),
    click.option(
        "--time-zone",
        metavar="ZONE",
        help="Zone of times without an offset, such as Europe/Berlin; UTC by default.",
    ),
    click.option(
        "--date-order",
        type=click.Choice(["dmy", "mdy"]),
        help="Order of dates such as 3/4/2026, where no date of the file shows it.",
    ),
    click.option(
        "--decimal", type=click.Choice(["point", "comma"]), help="Decimal sign of numbers."
    ),
    click.option(
        "--order",
        type=click.Choice(["time", "file"]),
        help="Send events sorted by time, or in the order of FILE; by default sorted if the file "
        "is not.",
    ),
    click.option("--format", type=click.Choice(get_args(Format)), help="Format of FILE."),
    click.option("--encoding", help="Encoding of text, such as windows-1252."),
    click.option("--delimiter", help="Sign between fields: one character, tab or ::"),
    click.option(
        "--columns", metavar="A,B,…", help="Names of the columns of a file without a header."
    ),
    click.option("--sheet", help="Sheet of an Excel file; the largest by default."),
)
