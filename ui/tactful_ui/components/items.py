"""Descriptions and pictures of items, for the pages that name them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping

import streamlit as st

from tactful.client.messages import CatalogueItem
from tactful.client.routes import items as routes
from tactful_ui.components import formats, shell
from tactful_ui.components.words import text as _
from tactful_ui.errors import NotFound

_KNOWN = "item_descriptions"
_SECONDS = 60
_MOST = 2_000
_PICTURES = ("image", "image_url", "image_link", "picture", "picture_url", "thumbnail")
_ADDRESS = re.compile(r"https?://[^\s\"'<>]+")


def described(item_ids: Iterable[str]) -> dict[str, CatalogueItem]:
    """Return the descriptions of items, asked of the server once a minute; none of unknown ones.

    Raises:
        SourceError: if the server does not answer.
    """
    known: dict[str, tuple[float, CatalogueItem | None]] = st.session_state.get(_KNOWN, {})
    now, found = time.monotonic(), dict[str, CatalogueItem]()
    if len(known) > _MOST:
        known = {}
    for item_id in dict.fromkeys(item_ids):
        if item_id not in known or now - known[item_id][0] > _SECONDS:
            try:
                item: CatalogueItem | None = shell.ask(routes.read(item_id))
            except NotFound:
                item = None
            known[item_id] = now, item
        if (item := known[item_id][1]) is not None:
            found[item_id] = item
    st.session_state[_KNOWN] = known
    return found


def title_of(item_id: str, items: Mapping[str, CatalogueItem]) -> str:
    """Return the title of an item, else its id."""
    item = items.get(item_id)
    return (item.title if item is not None else None) or item_id


def picture_of(item: CatalogueItem | None) -> str | None:
    """Return the web address of an item's picture: its own, else of the usual properties.

    A picture that the server keeps has none.
    """
    if item is None:
        return None
    for value in (item.image, *map(item.properties.get, _PICTURES)):
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, str) and _ADDRESS.fullmatch(first):
            return first
    return None


def facts(item: CatalogueItem) -> str:
    """Return category, price and availability in one line of Markdown."""
    parts = [item.category or _("without a category")]
    if item.price is not None:
        parts.append(formats.decimal(item.price, 2))
    if not item.available:
        parts.append(_("not available"))
    return " · ".join(map(formats.plain, parts))
