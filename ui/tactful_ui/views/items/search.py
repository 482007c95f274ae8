"""Page "Search": a question by text, picture or voice, what it finds, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from tactful.client.messages import CatalogueItem, SearchAnswer, SearchHit, WordMatch
from tactful.client.routes import items as routes
from tactful_ui.components import formats, shell, tables
from tactful_ui.components import items as cards
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError

_ASKED = "question of the search"
_LISTED = 20
_PICTURES = ["jpg", "jpeg", "png", "webp", "gif"]
_SOUNDS = ["wav", "flac", "ogg", "mp3"]
_MOST_MB = 2  # in base64 and JSON below the 4 MB that a server reads of a body by default
_FACETS = ("category", "price")


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Search"), _("Try a search as a visitor whom nobody knows; nothing of it is logged.")
    )
    reader = shell.reader()
    if not (reader.admin or reader.may("recommend")):
        st.info(_("A search needs a key with the scope `recommend` or `admin`."))
        return
    asked = _form()
    if asked is not None:
        st.session_state[_ASKED] = asked
        for name in _FACETS:  # choices are within the answer to one question
            st.session_state.pop(f"search {name}", None)
    asked = st.session_state.get(_ASKED)
    if asked is None:
        return
    try:
        answer = _answer(asked)
    except SourceError as failure:
        shell.explain(failure)
        return
    _draw(answer)


def _form() -> dict[str, Any] | None:
    """Draw the question, and return it when it is asked."""
    with st.form("search"):
        query = st.text_input(_("Words"), placeholder=_("blue teapot"), key="query").strip()
        left, right = st.columns(2)
        picture = left.file_uploader(
            _("Or a picture"), type=_PICTURES, key="picture", max_upload_size=_MOST_MB
        )
        audio = right.file_uploader(
            _("Or a spoken question"), type=_SOUNDS, key="audio", max_upload_size=_MOST_MB
        )
        if not st.form_submit_button(_("Search"), icon=":material/search:"):
            return None
    if audio is not None and (query or picture is not None):
        st.warning(_("A spoken question has neither words nor a picture beside it."))
        return None
    if not query and audio is None and picture is None:
        st.warning(_("Give words, a picture or a spoken question."))
        return None
    asked: dict[str, Any] = {"query": query}
    if picture is not None:
        asked["picture"] = picture.getvalue()
    if audio is not None:
        asked["audio"] = audio.getvalue()
    return asked


def _answer(asked: Mapping[str, Any]) -> SearchAnswer:
    """Search, within the chosen facets."""
    chosen = {name: st.session_state.get(f"search {name}") for name in _FACETS}
    fields: dict[str, Any] = {**asked, "trial": True, "explain": True, "limit": _LISTED}
    if chosen["category"]:
        fields["category"] = chosen["category"]
    if chosen["price"]:
        fields["min_price"], fields["max_price"] = chosen["price"]
    return shell.ask(routes.search_text(**fields, facets=[*_FACETS]))


def _draw(answer: SearchAnswer) -> None:
    if answer.heard is not None:
        heard = formats.plain(answer.heard.text)
        st.markdown(_("Heard: **{text}**", text=heard))
        if answer.heard.alternatives:
            others = ", ".join(map(formats.plain, answer.heard.alternatives))
            st.caption(_("Or: {others}", others=others))
    _facets(answer)
    st.caption(
        _(
            "{total} items match; answered in {took} ms.",
            total=formats.count(answer.total),
            took=formats.decimal(answer.took_ms, 1),
        )
    )
    if answer.note:
        st.info(formats.plain(answer.note))
    known = cards.described(hit.item_id for hit in answer.items)
    for place, hit in enumerate(answer.items, start=1):
        _card(place, hit, known)
    if answer.items:
        tables.download([_row(place, hit) for place, hit in enumerate(answer.items, 1)], "search")


def _facets(answer: SearchAnswer) -> None:
    """Draw the choices with their numbers of items; a choice searches again.

    A chosen one stays among them, also where the other choice left it no item or other ranges.
    """
    if answer.facets is None:
        return
    category, price = (st.session_state.get(f"search {name}") for name in _FACETS)
    counts = {it.value: it.items for it in answer.facets.values.get("category", []) if it.value}
    if category:
        counts.setdefault(category, 0)
    if counts:
        st.pills(
            _("Category"),
            [*counts],
            format_func=lambda value: f"{formats.plain(value)} ({formats.count(counts[value])})",
            key="search category",
        )
    ranges = {(it.low, it.high): it.items for it in answer.facets.prices}
    if price:
        ranges.setdefault(price, answer.total)
    if len(ranges) > 1 or price:
        st.pills(
            _("Price"),
            [*ranges],
            format_func=lambda ends: f"{ends[0]:.2f}–{ends[1]:.2f} ({formats.count(ranges[ends])})",
            key="search price",
        )


def _card(place: int, hit: SearchHit, known: Mapping[str, CatalogueItem]) -> None:
    item = known.get(hit.item_id)
    with st.container(border=True):
        picture, words = st.columns([1, 6])
        address = cards.picture_of(item)
        if address is not None:
            picture.image(address, width="stretch")
        else:
            picture.markdown(f"### {place}")
        words.markdown(f"**{formats.plain(hit.title or hit.item_id)}**")
        if item is not None:
            words.markdown(cards.facts(item))
        reasons = [_reason(it) for it in hit.matched or ()]
        if hit.text_match is not None:
            reasons.append(_("words {score}", score=formats.decimal(hit.text_match, 2)))
        if hit.vector_match is not None:
            reasons.append(
                _("cosine {score}", score=formats.plain(formats.decimal(hit.vector_match, 2)))
            )
        words.markdown(" ".join(f":blue-badge[{reason}]" for reason in reasons))


def _reason(match: WordMatch) -> str:
    """Return a word of the item with its fields, and the word that it stands for."""
    names = {
        "title": _("title"),
        "labels": _("labels"),
        "properties": _("properties"),
        "description": _("description"),
    }
    where = ", ".join(names.get(field, field) for field in match.fields)
    said = f"{formats.plain(match.found)} ({formats.plain(where)})"
    if match.edits:
        said += _(", for {word}", word=formats.plain(match.word))
    return said


def _row(place: int, hit: SearchHit) -> dict[str, Any]:
    """Return one row of the file to download."""
    return {
        "place": place,
        "item_id": hit.item_id,
        "title": hit.title,
        "score": hit.score,
        "text_match": hit.text_match,
        "vector_match": hit.vector_match,
        "matched": ", ".join(match.found for match in hit.matched or ()),
    }
