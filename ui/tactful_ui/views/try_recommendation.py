"""Page "Try": what a person, real or made up, would be recommended, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import streamlit as st

from tactful.client.messages import (
    CatalogueItem,
    ExplainedItem,
    MadeUpPerson,
    PastEvent,
    RecommendRequest,
    Trial,
    TrialRequest,
    TrialVariant,
    TriedVariant,
)
from tactful.client.routes import recommend as routes
from tactful_ui.components import charts, contributions, formats, shell, tables, times
from tactful_ui.components import items as cards
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError

_CHANNEL_COUNT = 10
_EXPLAINED = 10
_TRIAL = "answer of the trial"
_MODEL, _NONE = "a model", "nothing"
_TYPES = ("view", "click", "add_to_cart", "purchase", "rating", "dislike", "hide")


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Try a recommendation"),
        _("Nothing is logged as shown here; a look at a real person is recorded with your name."),
    )
    reader = shell.reader()
    if not reader.admin:
        st.info(_("This page shows people: it needs a key with the scope `admin`."))
        return
    experiment = shell.source().models().get("experiment")
    asked = _form(experiment if isinstance(experiment, Mapping) else {})
    if asked is not None:
        try:
            st.session_state[_TRIAL] = shell.ask(routes.try_out(asked))
        except SourceError as failure:
            st.session_state.pop(_TRIAL, None)
            shell.explain(failure)
    trial = st.session_state.get(_TRIAL)
    if isinstance(trial, Trial):
        _draw(trial)


def _form(experiment: Mapping[str, Any]) -> TrialRequest | None:
    """Draw the question, and return it when it is asked."""
    kinds = {"person": _("A person"), "made_up": _("A made-up person"), "nobody": _("Nobody")}
    who = st.segmented_control(
        _("For whom"), [*kinds], format_func=kinds.__getitem__, default="person", key="who"
    )
    ways, places = _ways(experiment), st.columns(3)
    chosen = [_way(place, ways, number) for number, place in enumerate(places[:2])]
    time = _time(places[2])
    with st.form("trial"):
        person, fields = _person(who or "person")
        page_name, count, category = st.columns(3)
        fields["count"] = int(count.number_input(_("Items"), 1, 100, 6, key="count"))
        if name := page_name.text_input(_("Page"), placeholder="home", key="page").strip():
            fields["context"] = {"page": name}
        if wanted := category.text_input(_("Only this category"), key="category").strip():
            fields["category"] = wanted
        low, high, left_out = st.columns(3, vertical_alignment="bottom")
        fields["min_price"] = low.number_input(_("Lowest price"), 0.0, value=None, key="low")
        fields["max_price"] = high.number_input(_("Highest price"), 0.0, value=None, key="high")
        fields["exclude_taken"] = left_out.checkbox(_("Leave out what was bought"), key="taken")
        fields |= _moment(time)
        variants = [
            _version(number) if way == _MODEL else ways.get(way, TrialVariant())
            for number, way in enumerate(chosen)
            if way != _NONE
        ]
        if not st.form_submit_button(_("Recommend"), icon=":material/play_arrow:"):
            return None
    if who == "person" and "user_id" not in fields:
        st.warning(_("Give the id of the person, or choose a made-up one."))
        return None
    return TrialRequest(
        request=RecommendRequest(**fields),
        person=person,
        variants=tuple(variants),
        channel_count=_CHANNEL_COUNT,
    )


def _person(who: str) -> tuple[MadeUpPerson | None, dict[str, Any]]:
    """Draw who it is for, and return the made-up person, or the field that names a real one."""
    if who == "person":
        user = st.text_input(_("Id of the person"), key="user").strip()
        return None, {"user_id": user} if user else {}
    if who == "nobody":
        return None, {}
    st.caption(_("Events of this person; features are computed from them as for a real one."))
    columns = {
        "item_id": st.column_config.TextColumn(_("Item"), required=True),
        "type": st.column_config.SelectboxColumn(_("Event"), options=_TYPES, default="view"),
        "minutes_ago": st.column_config.NumberColumn(
            _("Minutes ago"), min_value=0, max_value=527_000, default=0
        ),
    }
    first = st.session_state.get("made_up_events")
    empty: dict[str, list[Any]] = {"item_id": [""], "type": ["view"], "minutes_ago": [0]}
    rows = st.data_editor(
        first or empty,
        num_rows="dynamic",
        column_config=columns,
        hide_index=True,
        width="stretch",
        key="events",
    )
    described = st.text_input(
        _("Properties of the person"), placeholder="country=DE, age_band=35-44", key="properties"
    )
    return MadeUpPerson(events=tuple(_events(rows)), properties=_properties(described)), {}


def _events(columns: Mapping[str, Sequence[Any]]) -> list[PastEvent]:
    """Return the events of the table, without rows that name no item."""
    rows = zip(columns["item_id"], columns["type"], columns["minutes_ago"], strict=True)
    return [
        PastEvent(
            item_id=str(item_id).strip(),
            type=str(kind or "view"),
            seconds_ago=60.0 * float(minutes or 0),
        )
        for item_id, kind, minutes in rows
        if item_id is not None and str(item_id).strip()
    ]


def _properties(text: str) -> dict[str, Any]:
    """Read ``name=value`` pairs, separated by commas; a number is one."""
    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return {name.strip(): _value(value.strip()) for name, _equals, value in pairs if name.strip()}


def _value(text: str) -> Any:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


def _time(place: Any) -> str:
    """Draw the kinds of times, and return the chosen one: now, last or at."""
    kinds = {"now": _("Now"), "last": _("The latest event"), "at": _("Another time (UTC)")}
    chosen = place.selectbox(_("Time"), [*kinds], format_func=kinds.__getitem__, key="time")
    return str(chosen)


def _moment(time: str) -> dict[str, Any]:
    """Return the field that names a time, drawing one that is to be given; none for now."""
    if time == "last":
        return {"as_of": "last"}
    if time != "at":
        return {}
    day, hour = st.columns(2)
    date = day.date_input(_("Day (UTC)"), key="day")
    clock = hour.time_input(_("Time of the day (UTC)"), key="hour")
    return {"timestamp": round(datetime.combine(date, clock, UTC).timestamp() * 1000)}


def _ways(experiment: Mapping[str, Any]) -> dict[str, TrialVariant]:
    """Return the arms of the ranking by a name for people."""
    key, arms = str(experiment.get("key") or ""), experiment.get("arms")
    names = [*arms] if key and isinstance(arms, Mapping) else []
    return {_("arm {arm}", arm=name): TrialVariant(force={key: name}) for name in names}


def _way(place: Any, ways: Mapping[str, TrialVariant], number: int) -> str:
    """Draw the ways to answer, and return the chosen one."""
    names = {"": _("as served"), _MODEL: _("a version of the model")}
    names[_NONE] = _("nothing beside it")
    options = ["", *ways, _MODEL]
    chosen = place.selectbox(
        _("Compare with") if number else _("Answer by"),
        [_NONE, *options] if number else options,
        format_func=lambda way: names.get(way, way),
        key=f"way {number}",
    )
    return str(chosen)


def _version(number: int) -> TrialVariant:
    """Draw the version of a way, and return it."""
    version = st.text_input(
        _("Version") if not number else _("Version to compare with"),
        placeholder="7",
        key=f"version {number}",
    )
    return TrialVariant(model=version.strip() or None)


def _draw(trial: Trial) -> None:
    st.caption(_("Answered for {at}.", at=times.moment(trial.at)))
    places = st.columns(len(trial.variants))
    for number, (place, tried) in enumerate(zip(places, trial.variants, strict=True)):
        with place:
            _recommendation(tried, trial.items, wide=len(trial.variants) == 1)
            tables.download(_rows(tried, trial.items), f"recommendation {number + 1}")
    st.subheader(_("Proposals of each recall channel alone"), anchor=False)
    for number, tried in enumerate(trial.variants):
        if number and tried.channels == trial.variants[0].channels:
            continue
        if len(trial.variants) > 1:
            st.markdown(f"**{formats.plain(_name(tried))}**")
        _channels(tried, trial.items, number)


def _rows(tried: TriedVariant, items: Mapping[str, CatalogueItem]) -> list[dict[str, Any]]:
    """Return one row for each item, with the contribution of every feature."""
    explanation = tried.recommendation.explanation
    explained = {it.item_id: it for it in (explanation.items if explanation else [])}
    return [
        {
            "place": place,
            "item_id": item.item_id,
            "title": cards.title_of(item.item_id, items),
            "channel": item.channel,
            "score": item.score,
        }
        | ((explained[item.item_id].contributions or {}) if item.item_id in explained else {})
        for place, item in enumerate(tried.recommendation.items, start=1)
    ]


def _name(tried: TriedVariant) -> str:
    """Return model and arms of an answer."""
    answer = tried.recommendation
    arms = ", ".join(f"{key}: {arm}" for key, arm in answer.variant.items())
    return f"{answer.model_version} ({arms})" if arms else answer.model_version


def _recommendation(tried: TriedVariant, items: Mapping[str, CatalogueItem], *, wide: bool) -> None:
    """Draw the cards of one answer; in a wide column the reasons stand beside the words."""
    answer, explanation = tried.recommendation, tried.recommendation.explanation
    st.subheader(formats.plain(_name(tried)), anchor=False)
    if answer.fallback:
        st.caption(formats.plain(answer.fallback))
    if explanation is not None and explanation.note:
        st.caption(formats.plain(explanation.note))
    if not answer.items:
        st.info(_("No item passes these filters."))
    explained = {it.item_id: it for it in (explanation.items if explanation else [])}
    for place, item in enumerate(answer.items):
        described = items.get(item.item_id)
        with st.container(border=True):
            picture, words, *beside = st.columns([1, 4, 5] if wide else [1, 4])
            address = cards.picture_of(described)
            if address is not None:
                picture.image(address, width="stretch")
            else:
                picture.markdown(f"### {place + 1}")
            words.markdown(f"**{formats.plain(cards.title_of(item.item_id, items))}**")
            if described is not None:
                words.markdown(cards.facts(described))
            words.markdown(
                f":blue-badge[{formats.plain(item.channel)}] "
                + _("score {score}", score=formats.plain(formats.decimal(item.score)))
            )
            with beside[0] if beside else st.container():
                _why(explained.get(item.item_id), drawn=place < _EXPLAINED)


def _why(item: ExplainedItem | None, *, drawn: bool) -> None:
    """Draw the contributions of features to the rank of an item."""
    rows = contributions.rows_of(item) if item is not None else []
    if not rows:
        return
    if drawn:
        title = _("Contributions to the score")
        chart = contributions.chart(rows, title, shell.palette())
        charts.draw(chart, f"contributions to {item.item_id}" if item is not None else title)
    else:
        said = ", ".join(f"{name} {formats.signed(value, 2)}" for name, value in rows[:3])
        st.caption(formats.plain(said))


def _channels(tried: TriedVariant, items: Mapping[str, CatalogueItem], number: int) -> None:
    """Draw one column for each channel, and one row for each place."""
    if not tried.channels:
        st.caption(_("No recall channel proposes anything."))
        return
    longest = max(len(channel.item_ids) for channel in tried.channels)
    rows: list[dict[str, Any]] = []
    for place in range(longest):
        row: dict[str, Any] = {_("Place"): place + 1}
        for channel in tried.channels:
            ids = channel.item_ids
            row[channel.channel] = cards.title_of(ids[place], items) if place < len(ids) else None
        rows.append(row)
    tables.show(rows, f"channels {number}")
