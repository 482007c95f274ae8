"""``tactful items``: the catalogue of a server, and lists of items."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import click
import msgspec
from msgspec import UNSET

from tactful.cli import options as cli
from tactful.client import Client
from tactful.client.item_calls import ItemFilter, SearchFields
from tactful.config.settings import Settings
from tactful.schemas.items import CatalogueItem, ItemList
from tactful_privacy.decoding import DECODE_ERRORS

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
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
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


@items.command("encode", epilog=cli.example("tactful items encode --data shop"))
@cli.with_settings
@click.option(
    "--items",
    "lines",
    type=click.File("rb"),
    help="Texts and images of items, one JSON object a line, instead of the log; - for stdin.",
)
@click.option(
    "--prune",
    is_flag=True,
    help="The items of --items are all: delete other vectors, and pictures unused for a week.",
)
@cli.json_option
def items_encode(settings: Settings, lines: BinaryIO | None, prune: bool, as_json: bool) -> None:
    """Make vectors of new items from words and pictures, by the encoders of [understanding].

    Run it again after a kill: it goes on where it was.
    """
    from tactful.models.encode_catalogue import Described, encode_catalogue

    if prune and lines is None:
        raise click.UsageError("--prune needs --items with all items: the log may lack some")
    try:
        given = None
        if lines is not None:
            given = msgspec.json.Decoder(Described).decode_lines(lines.read())
    except (ValueError, *DECODE_ERRORS) as error:
        raise click.BadParameter(
            f'a line is none such as {{"text": "Blue mug", "image": "sha256:…"}}: {error}'
        ) from error
    if prune and not given:
        raise click.BadParameter("--items has no item, so --prune would delete all")
    with cli.progress_bar(quiet=as_json, unit="item") as bar:
        encoded = encode_catalogue(settings, given, prune=prune, progress=cli.advance(bar))
    if as_json:
        cli.print_json(encoded)
        return
    for address, problem in encoded.refused.items():
        click.echo(f"{_printable(address)}: {problem}", err=True)
    fetched = f"{encoded.fetched} fetched, " if encoded.fetched else ""
    click.echo(f"{fetched}{encoded.new} encoded, {encoded.kept} kept, {encoded.removed} removed.")


@items.command("search", epilog=cli.example("tactful items search 'blue teapto' --user u-17"))
@click.argument("query", default="")
@click.option(
    "--picture",
    type=cli.existing_file,
    help="Find items that look like this JPEG, PNG, WebP or GIF.",
)
@click.option("--audio", type=cli.existing_file, help="A spoken question in place of the text.")
@click.option("--user", "user_id", help="Order the items for this user; needs the scope admin.")
@_category
@click.option("--limit", type=click.IntRange(1, 100), default=10, help="Most items.")
@click.option("--cursor", help="Cursor of the next page, as the page before printed it.")
@cli.url_option
@cli.key_file_option
@cli.json_option
def items_search(query: str, url: str, key_file: Path | None, as_json: bool, **wanted: Any) -> None:
    """Search items by text, picture or voice, as a shop does; nothing is logged."""
    chosen = {name: value for name, value in wanted.items() if value is not None}
    for name in ("picture", "audio"):
        if isinstance(file := chosen.get(name), Path):
            chosen[name] = file.read_bytes()
    if not query and not {"picture", "audio"} & chosen.keys():
        raise click.UsageError("name a QUERY, --picture or --audio")
    fields = cast(SearchFields, {**chosen, "explain": True, "trial": True})
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        page = client.search(query, **fields)
    if as_json:
        cli.print_json(page)
        return
    if page.heard is not None:
        click.echo(f"heard: {_printable(page.heard.text)}", err=True)
    for hit in page.items:
        words = ", ".join(f"{it.found} ({', '.join(it.fields)})" for it in hit.matched or ())
        click.echo("  ".join(filter(None, (hit.item_id, _printable(hit.title), words))))
    if page.note:
        click.echo(page.note, err=True)
    if page.next_cursor is not None:
        click.echo(f"More with --cursor {page.next_cursor}", err=True)


@items.command("show", epilog=cli.example("tactful items show sku-42"))
@click.argument("item_id")
@cli.url_option
@cli.key_file_option
@cli.json_option
def items_show(item_id: str, url: str, key_file: Path | None, as_json: bool) -> None:
    """Print the description of an item as it is now."""
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
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
        with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
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
    title = _printable(item.title)
    price = "" if item.price is None else f"{item.price:g}"
    notes = [] if item.available else ["not available"]
    return "  ".join(part for part in (item.item_id, title, item.category, price, *notes) if part)


def _printable(title: str | None) -> str:
    return "".join(part if part.isprintable() else "\ufffd" for part in title or "")
