"""``tactful items``: the catalogue of a server, and lists of items."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import click
from msgspec import UNSET

from tactful.cli import options as cli
from tactful.client import Client
from tactful.client.item_calls import ItemFilter
from tactful.schemas.items import CatalogueItem, ItemList

_category = click.option("--category", help="Only items of this category.")


@click.group()
def items() -> None:
    """Read the catalogue of a server, and lists of similar, popular or new items."""


@items.command("list", epilog=cli.example("tactful items list --search 'blue mug' --available"))
@click.option("--search", help="Words of title and id; the last may be a beginning.")
@_category
@click.option("--available/--unavailable", default=None, help="Only items that can be bought.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, help="Most items.")
@click.option("--cursor", help="Id after which the page begins, as the page before printed it.")
@cli.url_option
@cli.key_file_option
@cli.json_option
def items_list(
    url: str,
    key_file: Path | None,
    as_json: bool,
    **wanted: Any,
) -> None:
    """List items in the order of their ids, page by page."""
    chosen = {name: value for name, value in wanted.items() if value is not None}
    with Client(url, cli.api_key(key_file)) as client:
        page = client.find_items(**cast(ItemFilter, chosen))
    if as_json:
        cli.print_json(page)
        return
    for item in page.items:
        click.echo(_line_of(item))
    if not page.items:
        click.echo("No item matches.", err=True)
    if page.next_cursor is not None:
        click.echo(f"More with --cursor {shlex.quote(page.next_cursor)}", err=True)


@items.command("show", epilog=cli.example("tactful items show sku-42"))
@click.argument("item_id")
@cli.url_option
@cli.key_file_option
@cli.json_option
def items_show(item_id: str, url: str, key_file: Path | None, as_json: bool) -> None:
    """Print the description of an item as it is now."""
    with Client(url, cli.api_key(key_file)) as client:
        cli.print_json(client.item(item_id), pretty=not as_json)


def _add_list(name: str, request: Callable[..., ItemList], text: str, *, of_item: bool) -> None:
    """Add a command that prints a list, of an item or for everybody."""
    argument = (click.argument("item_id"),) if of_item else ()
    example = f"tactful items {name}{' sku-42' if of_item else ''} --count 5 --category kitchen"

    @items.command(name, help=text, epilog=cli.example(example))
    @cli.with_options(
        *argument,
        click.option("--count", type=click.IntRange(1, 1000), default=10, help="Most items."),
        _category,
        cli.url_option,
        cli.key_file_option,
        cli.json_option,
    )
    def command(
        count: int,
        category: str | None,
        url: str,
        key_file: Path | None,
        as_json: bool,
        **item: str,
    ) -> None:
        options = {"count": count} | ({} if category is None else {"category": category})
        with Client(url, cli.api_key(key_file)) as client:
            answer = request(client, *item.values(), **options)
        _print_list(answer, as_json)


_add_list("similar", Client.similar, "List items similar to an item.", of_item=True)
_add_list(
    "together",
    Client.together,
    "List items that enough people took in the same visits as an item.",
    of_item=True,
)
_add_list(
    "next",
    Client.next_items,
    "List items that enough people took right after an item.",
    of_item=True,
)
_add_list("popular", Client.popular, "List the items that most people take now.", of_item=False)
_add_list(
    "trending", Client.trending, "List items that rise in published statistics.", of_item=False
)
_add_list("latest", Client.latest, "List the newest items.", of_item=False)


def _print_list(answer: ItemList, as_json: bool) -> None:
    if as_json:
        cli.print_json(answer)
        return
    for place, item in enumerate(answer.items, 1):
        score = "" if item.score is UNSET else f"  {item.score:.2f}"
        click.echo(f"{place:>3}  {item.item_id}{score}")
    if answer.fallback:
        click.echo(answer.fallback, err=True)


def _line_of(item: CatalogueItem) -> str:
    """Return an item as one line; a title may hold characters that a terminal obeys."""
    title = "".join(part if part.isprintable() else "\ufffd" for part in item.title or "")
    price = "" if item.price is None else f"{item.price:g}"
    notes = [] if item.available else ["not available"]
    return "  ".join(part for part in (item.item_id, title, item.category, price, *notes) if part)
