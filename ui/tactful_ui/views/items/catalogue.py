"""Page "Items": search with facets, one item with its trend and neighbours, lists for everybody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from tactful.client import Request
from tactful.client.messages import (
    CatalogueItem,
    FacetCount,
    Facets,
    ItemList,
    ItemNeighbours,
    ItemPage,
    ItemTrends,
    Neighbour,
)
from tactful.client.routes import items as routes
from tactful_ui.components import charts, formats, shell, tables, times
from tactful_ui.components import items as cards
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError
from tactful_ui.report import Count, Estimate, parse_time

_LISTED = 10
_FOUND = 50
_ITEM = "item"

_Kind = tuple[str, Sequence[Neighbour] | None, str]
"""Title, neighbours of this kind, and the meaning of their scores."""


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(_("Items"), _("Find an item, and see what it does and what is near it."))
    reader = shell.reader()
    found = _search()
    item_id = _chosen(found)
    if item_id is not None:
        try:
            item = shell.ask(routes.read(item_id))
        except SourceError:
            st.warning(_("There is no item {item}.", item=formats.plain(item_id)))
        else:
            _card(item)
            shell.section(_("Trend"), lambda: shell.ask(routes.trend(item_id)), _trends)
            _near(item_id, exact=reader.admin)
    _lists()


def _search() -> ItemPage:
    """Draw the search and its facets, and return the items that match."""
    words, category, available = st.columns([3, 2, 2])
    search = words.text_input(_("Words of title or id"), key="search")
    asked: dict[str, Any] = {"search": search, "limit": _FOUND, "facets": True}
    counts = shell.ask(routes.search(**asked)).facets
    facets = counts if isinstance(counts, Facets) else None
    chosen = _facet(category, _("Category"), facets.categories if facets else [], "category")
    if chosen:
        asked["category"] = chosen
    state = _facet(available, _("Available"), facets.available if facets else [], "available")
    if state:
        asked["available"] = state == "true"
    if facets and len(facets.prices) > 1:
        asked |= _prices(facets)
    found = shell.ask(routes.search(**asked))
    total = found.facets.total if isinstance(found.facets, Facets) else len(found.items)
    st.caption(_("{total} items match.", total=formats.count(total)))
    return found


def _facet(place: Any, label: str, counts: Sequence[FacetCount], key: str) -> str:
    """Draw one facet, each value with its number of items, and return the chosen value."""
    numbers = {it.value: it.items for it in counts if it.value and it.items}
    names = {"true": _("yes"), "false": _("no")} if key == "available" else {}
    return str(
        place.selectbox(
            label,
            ["", *numbers],
            format_func=lambda value: (
                f"{names.get(value, value)} ({formats.count(numbers[value])})"
                if value
                else _("all")
            ),
            key=f"facet {key}",
        )
        or ""
    )


def _prices(facets: Facets) -> dict[str, float]:
    """Draw the ranges of prices with their numbers of items, and return the chosen one."""
    ranges = {f"{it.low:.2f}–{it.high:.2f}": it for it in facets.prices}
    chosen = st.pills(
        _("Price"),
        [*ranges],
        format_func=lambda name: f"{name} ({formats.count(ranges[name].items)})",
        key="facet price",
    )
    if chosen not in ranges:
        return {}
    return {"min_price": ranges[chosen].low, "max_price": ranges[chosen].high}


def _chosen(found: ItemPage) -> str | None:
    """Draw the items that match, and return the one of the address or of the choice."""
    rows = [
        {
            _("Item"): item.item_id,
            _("Title"): item.title,
            _("Category"): item.category,
            _("Price"): item.price,
            _("Available"): item.available,
            _("Described"): times.moment(item.timestamp),
        }
        for item in found.items
    ]
    if not rows:
        st.info(_("No item matches. Use fewer words, or send items with `tactful import`."))
        return st.query_params.get(_ITEM)
    tables.show(rows, "items", height=min(38 * (len(rows) + 1), 300))
    titles = {item.item_id: item for item in found.items}
    linked = st.query_params.get(_ITEM)
    ids = [*dict.fromkeys([*([linked] if linked else []), *titles])]
    chosen = st.selectbox(
        _("Item to look at"),
        ids,
        index=0 if linked else None,
        format_func=lambda item_id: f"{cards.title_of(item_id, titles)} · {item_id}",
        placeholder=_("Choose an item"),
        key="chosen item",
    )
    if chosen is not None and chosen != linked:
        st.query_params[_ITEM] = chosen
    return chosen


def _card(item: CatalogueItem) -> None:
    with st.container(border=True):
        facts: Any = st.container()
        address = cards.picture_of(item)
        if address is not None:
            picture, facts = st.columns([1, 4])
            picture.image(address, width=140)
        facts.subheader(formats.plain(item.title or item.item_id), anchor=False)
        facts.markdown(cards.facts(item))
        facts.caption(
            _(
                "{item}, described {at}",
                item=formats.plain(item.item_id),
                at=times.moment(item.timestamp),
            )
        )
        if item.properties:
            with facts.expander(_("Properties")):
                rows = [
                    {_("Property"): name, _("Value"): str(value)}
                    for name, value in sorted(item.properties.items())
                ]
                tables.show(rows, f"properties of {item.item_id}")


def _trends(found: ItemTrends) -> None:
    drawn = [trend for trend in found.trends if trend.cells]
    if not drawn:
        st.markdown(
            _(
                "No published statistic counts by item or by this category; "
                "`statistics.yaml` adds one."
            )
        )
    for trend in drawn:
        cells = [
            Count(start, cell.key, Estimate(cell.value, cell.low, cell.high))
            for cell in trend.cells
            if (start := parse_time(cell.pane_start)) is not None
        ]
        about = _("{title}: {key}", title=trend.title or trend.statistic, key=trend.key)
        rise = ""
        if trend.growth is not None:
            rise = _("; its share grew at least {factor}-fold", factor=f"{trend.growth:g}")
        st.markdown(f"**{formats.plain(about)}**{formats.plain(rise)}")
        low, high = charts.span(cells)
        chart = charts.counts(trend.key, cells, low, high, shell.palette())
        rows = [
            {"pane": cell.pane_start, "value": cell.value, "low": cell.low, "high": cell.high}
            for cell in trend.cells
        ]
        charts.show(chart, f"trend of {trend.statistic} {trend.key}", rows)
        st.caption(
            _(
                "Released numbers with noise (ε = {epsilon}) and 95 % intervals.",
                epsilon=formats.decimal(trend.epsilon, 2),
            )
        )


def _near(item_id: str, *, exact: bool) -> None:
    """Draw the neighbours: exact ones for an administrator, else the lists for everybody."""
    if exact:
        ask = shell.ask
        shell.section(
            _("Neighbours"), lambda: ask(routes.neighbours(item_id, count=_LISTED)), _neighbours
        )
        return
    st.subheader(_("Neighbours"), anchor=False)
    st.caption(_("Scores are relative to the best of a list; pairs count from enough people on."))
    kinds: list[tuple[str, Callable[..., Request[ItemList]]]] = [
        (_("Similar"), routes.similar),
        (_("From the same visits"), routes.together),
        (_("Came next"), routes.following),
    ]
    for place, (title, route) in zip(st.columns(3), kinds, strict=True):
        with place:
            _list(title, route(item_id, count=_LISTED))


def _neighbours(found: ItemNeighbours) -> None:
    least = found.minimum_people
    taken = (
        _("fewer than {least} people took it", least=least)
        if found.people is None
        else _("{people} people took it", people=formats.count(found.people))
    )
    st.caption(_("Exact numbers, as recall uses them; {taken}.", taken=taken))
    content: list[_Kind] = [
        (_("By words"), found.described, _("rare words in common weigh more")),
        (_("By meaning"), found.meaning, _("cosine of the encoded words")),
        (_("By picture"), found.pictures, _("cosine of the encoded pictures")),
    ]
    behaviour: list[_Kind] = [
        (_("From the same visits"), found.together, _("learned from visits with both")),
        (_("Came next"), found.following, _("learned from what followed in visits")),
        (_("By vectors"), found.vectors, _("cosine of the learned vectors")),
    ]
    shown = [kind for kind in content if kind[1] is not None]
    *places, last = st.columns(len(shown) + 1)
    for place, kind in zip(places, shown, strict=True):
        with place:
            st.markdown(f"**{kind[0]}**")
            _kind(found.item_id, kind)
    with last:
        st.markdown(f"**{_('By behaviour')}**")
        for tab, kind in zip(st.tabs([kind[0] for kind in behaviour]), behaviour, strict=True):
            with tab:
                _kind(found.item_id, kind)
    if found.meaning is None:
        st.caption(_("Neighbours by meaning need the encoder of `understanding.text_model`."))


def _kind(item_id: str, kind: _Kind) -> None:
    title, neighbours, why = kind
    st.caption(why)
    if neighbours:
        tables.show([_row(it) for it in neighbours], f"{title} of {item_id}")
    else:
        st.caption(_("None yet."))


def _row(neighbour: Neighbour) -> dict[str, Any]:
    row = {
        _("Item"): neighbour.item_id,
        _("Title"): neighbour.title,
        _("Score"): neighbour.score,
    }
    if neighbour.words:
        row[_("Why")] = ", ".join(neighbour.words)
    elif neighbour.people is not None:
        row[_("Why")] = _("{people} people took both", people=formats.count(neighbour.people))
    return row


def _lists() -> None:
    """Draw the popular, the rising and the newest items."""
    st.subheader(_("For everybody"), anchor=False)
    kinds: list[tuple[str, Callable[..., Request[ItemList]]]] = [
        (_("Popular"), routes.popular),
        (_("Trending"), routes.trending),
        (_("Newest"), routes.latest),
    ]
    for place, (title, route) in zip(st.columns(3), kinds, strict=True):
        with place:
            _list(title, route(count=_LISTED))


def _list(title: str, request: Request[ItemList]) -> None:
    st.markdown(f"**{formats.plain(title)}**")
    try:
        listed = shell.ask(request)
        known = cards.described(item.item_id for item in listed.items)
    except SourceError as failure:
        shell.explain(failure)
        return
    if listed.items:
        rows = [
            {_("Title"): cards.title_of(item.item_id, known), _("Item"): item.item_id}
            | ({_("Score"): item.score} if isinstance(item.score, float) else {})
            for item in listed.items
        ]
        tables.show(rows, f"list {title} {st.query_params.get(_ITEM, '')}")
    if listed.fallback:
        st.caption(formats.plain(listed.fallback))
