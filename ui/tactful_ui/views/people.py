"""Page "People": one person for operators: consent, features, what happened, export and erasure.

Each look is recorded by the server, so a part is fetched when it is chosen and kept while the page
stays at the person. Ids are in no address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import streamlit as st

from tactful.client import Request
from tactful.client.routes import people as routes
from tactful_ui.components import formats, meanings, shell, tables, times
from tactful_ui.components.words import text as _
from tactful_ui.errors import NotFound, SourceError

T = TypeVar("T")

_PERSON, _KEPT, _RECEIPT, _MATCHES = "person", "person_parts", "person_receipt", "person_matches"
_PAGE = 100


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("People"),
        _("Everything that is stored about one person. Each look is recorded in the audit trail."),
    )
    reader = shell.reader()
    if not reader.admin:
        st.info(_("People are shown to operators only: it needs the scope `admin`."))
        return
    _receipt()
    _search()
    person = st.session_state.get(_PERSON)
    if person:
        _person(person)


def _search() -> None:
    """Draw the form that finds a person, and the people whom it found."""
    with st.form("find_person"):
        kind, value = st.columns([1, 2])
        by = kind.selectbox(
            _("By"),
            ["user_id", "device_id", "properties.email", "properties.order", "session_id"],
            format_func=_kind,
            accept_new_options=True,
            help=_("Any property works, too: write `properties.NAME` or `context.NAME`."),
        )
        wanted = value.text_input(_("Value"), autocomplete="off").strip()
        if st.form_submit_button(_("Find"), icon=":material/search:") and wanted and by:
            _find(by, wanted)
    matches = st.session_state.get(_MATCHES)
    if matches is None:
        return
    if not matches.people:
        st.info(_("Nobody is stored with this value."))
    for number, match in enumerate(matches.people):
        row, button = st.columns([4, 1], vertical_alignment="center")
        row.markdown(
            _(
                "**{person}**, {records} records, the last {at}",
                person=formats.plain(match.person),
                records=formats.count(match.records),
                at=times.moment(match.last_at),
            )
        )
        if button.button(_("Open"), key=f"open-{number}"):
            _open(match.person)
            st.rerun()
    if matches.more:
        st.caption(_("There may be more."))


def _kind(by: str) -> str:
    return {"user_id": _("User id"), "device_id": _("Device id")}.get(by, by)


def _find(by: str, value: str) -> None:
    if by in ("user_id", "device_id"):
        _open(value if by == "user_id" else f"device:{value}")
        return
    try:
        st.session_state[_MATCHES] = shell.ask(routes.find(by, value))
    except SourceError as failure:
        shell.explain(failure)


def _open(person: str) -> None:
    for name in (_MATCHES, _KEPT, _RECEIPT):
        st.session_state.pop(name, None)
    st.session_state[_PERSON] = person


def _person(person: str) -> None:
    title, again = st.columns([4, 1], vertical_alignment="bottom")
    title.subheader(person, anchor=False)
    if again.button(_("Read again"), icon=":material/refresh:"):
        st.session_state.pop(_KEPT, None)
    _part(_("Consent"), routes.consent(person), _consent)
    parts: dict[str, tuple[Request[Any], Callable[[Any], None]]] = {
        _("Features"): (routes.features(person), _features),
        _("Life cycle"): (routes.features(person), _life_cycle),
        _("Other domains"): (routes.features(person), _crossed),
        _("Timeline"): (routes.timeline(person, limit=_PAGE), _timeline),
        _("Devices"): (routes.devices(person), _devices),
        _("Recommendations"): (routes.recommendations(person, limit=_PAGE), _recommendations),
        _("Who looked"): (routes.accesses(person, limit=_PAGE), _accesses),
    }
    chosen = st.segmented_control(_("Look at"), list(parts), key=f"part of {len(person)}")
    if chosen:
        _part(chosen, *parts[chosen])
    _export(person)
    _erase(person)


def _part(title: str, request: Request[T], draw: Callable[[T], None]) -> None:
    """Draw a part of what is stored about the person."""
    st.subheader(title, anchor=False)
    try:
        data = _kept(request)
    except NotFound as failure:  # the person was erased
        st.info(formats.plain(str(failure)))
    except SourceError as failure:
        shell.explain(failure)
    else:
        draw(data)


def _kept(request: Request[T]) -> T:
    """Return an answer that is asked once for the open person: each look is recorded."""
    kept = st.session_state.setdefault(_KEPT, {})
    if request.path not in kept:
        kept[request.path] = shell.ask(request)
    answer: T = kept[request.path]
    return answer


def _consent(consent: Any) -> None:
    allowed = ", ".join(map(_purpose, consent.allowed)) or _("nothing")
    st.markdown(_("May be used for: **{purposes}**", purposes=allowed))
    assumed = [name for name in consent.default if name not in consent.said]
    if assumed:
        text = _("By default, without a decision: {purposes}")
        st.caption(text.format(purposes=", ".join(map(_purpose, assumed))))
    if not consent.history:
        st.caption(_("No decision is recorded."))
        return
    rows = [
        {
            _("When"): times.moment(decision.at),
            _("Agreed"): ", ".join(_purpose(p) for p, y in decision.purposes.items() if y),
            _("Refused"): ", ".join(_purpose(p) for p, y in decision.purposes.items() if not y),
            _("Source"): decision.source,
        }
        for decision in reversed(consent.history)
    ]
    tables.show(rows, "consent")


def _purpose(name: str) -> str:
    names = {
        "service": _("service"),
        "personalisation": _("personalisation"),
        "measurement": _("measurement"),
        "federated_training": _("training on devices"),
        "marketing": _("marketing"),
    }
    return names.get(name, name)


def _features(features: Any) -> None:
    known = {meaning.name: meaning for meaning in features.meanings}
    sentences = [
        meanings.sentence(known[name], value)
        for name, value in features.features.items()
        if name in known
    ]
    shown = [text for text in sentences if text]
    if not shown:
        st.info(_("Nothing is known yet."))
    st.markdown("\n".join(f"- {formats.plain(text)}" for text in shown))
    if empty := len(sentences) - len(shown):
        st.caption(_("{number} features have no value yet.", number=empty))


def _life_cycle(features: Any) -> None:
    known = features.lifecycle
    if known is None or not known.visits:
        st.info(_reason(known.reason if known else None))
        return
    stage, returns, value = st.columns(3)
    stage.metric(_("Stage"), _stage(known.stage))
    label = _("Returns within {days} days", days=known.horizon_days)
    returns.metric(label, formats.percent(known.return_probability))
    if known.value_unit == "money":
        value.metric(_("Spent so far"), formats.decimal(known.value, 2))
    else:
        value.metric(_("Visits so far"), formats.count(known.value))
    st.markdown(
        _(
            "Days with an event: {visits}, the first {first}, the last {last}.",
            visits=known.visits,
            first=known.first_day,
            last=known.last_day,
        )
    )
    if known.reason:
        st.info(_reason(known.reason))
    elif not known.calibrated:
        st.caption(_("The shop is too young to check how often such probabilities come true."))
    elif known.brier is not None:
        text = _(
            "Mean squared error of such probabilities: {own}; of one for everybody: {base}.",
            own=formats.decimal(known.brier, 3),
            base=formats.decimal(known.base_brier, 3),
        )
        st.caption(text)


def _crossed(features: Any) -> None:
    """Draw the profiles that the person let cross from other domains."""
    if not features.crossed:
        st.info(_("No profile crossed from another domain, or the person withdrew."))
        return
    rows = [
        {
            _("Crossed from"): profile.releasing,
            _("When"): times.moment(profile.crossed_at),
            _("Recommendations follow it"): _("yes") if profile.used else _("not yet"),
        }
        for profile in features.crossed
    ]
    tables.show(rows, "crossed")


def _stage(name: str | None) -> str:
    names = {
        "new": _("new"),
        "active": _("active"),
        "lapsing": _("lapsing"),
        "lost": _("lost"),
        None: _("not known yet"),
    }
    return names.get(name, str(name))


def _reason(reason: str | None) -> str:
    """Return why the stage is unknown, in the language of the page where it is a fixed text."""
    reasons = {
        None: _("The server does not compute life cycles."),
        "consent does not allow to personalise": _("The person did not agree to personalisation."),
        "there is no event": _("There is no event of the person."),
        "no model is fitted yet": _("No model is fitted yet; the server first reads all users."),
    }
    return reasons.get(reason) or _("Not known yet: {reason}.", reason=formats.plain(str(reason)))


def _timeline(page: Any) -> None:
    rows = [
        {
            _("When"): times.moment(event.at),
            _("Event"): event.type,
            _("Item"): event.item_id,
            _("Device"): event.device_id,
            _("Visit"): event.session_id,
            _("After recommendation"): event.recommendation_id,
        }
        for event in page.events
    ]
    _table(rows, "timeline", page.next_cursor)


def _devices(found: Any) -> None:
    rows = [
        {
            _("Device"): device.device_id,
            _("Shared with others"): _("yes") if device.shared else _("no"),
            _("Events"): device.events,
            _("First"): times.moment(device.first_at),
            _("Last"): times.moment(device.last_at),
        }
        for device in found.devices
    ]
    _table(rows, "devices", None)


def _recommendations(page: Any) -> None:
    rows = [
        {
            _("When"): times.moment(seen.at),
            _("Items"): ", ".join(seen.items),
            _("Model"): seen.model_version,
            _("Arm"): seen.arm,
            _("Followed by"): ", ".join(seen.answered),
            _("Recommendation"): seen.recommendation_id,
        }
        for seen in page.recommendations
    ]
    _table(rows, "recommendations", page.next_cursor)


def _accesses(page: Any) -> None:
    rows = [
        {_("When"): times.moment(it.at), _("Action"): it.action, _("Who"): it.by}
        for it in page.accesses
    ]
    _table(rows, "accesses", page.next_cursor)


def _table(rows: list[dict[str, Any]], name: str, cursor: str | None) -> None:
    if not rows:
        st.info(_("There is nothing."))
        return
    tables.show(rows, name)
    if cursor:
        st.caption(_("The latest {number}; the export has all of them.", number=len(rows)))


def _export(person: str) -> None:
    """Draw the export: it is collected when asked for."""
    st.subheader(_("Export"), anchor=False)
    st.caption(_("Everything that an erasure would remove. Verify who asks before you send it."))
    if st.button(_("Collect the export"), icon=":material/folder_zip:"):
        try:
            st.session_state.setdefault(_KEPT, {})["export"] = shell.ask(routes.export_page(person))
        except SourceError as failure:
            shell.explain(failure)
    if page := st.session_state.get(_KEPT, {}).get("export"):
        st.download_button(
            _("Save as a page"), page, file_name="export.html", mime="text/html", on_click="ignore"
        )


def _erase(person: str) -> None:
    """Draw the erasure, which asks for the id once more."""
    st.subheader(_("Erase"), anchor=False)
    st.caption(
        _(
            "From this moment on no data of the person is read or accepted; what is stored is "
            "removed by the date on the receipt. This cannot be undone."
        )
    )
    typed = st.text_input(_("Type the id to confirm"), key=f"erase-{person}", autocomplete="off")
    button = st.button(_("Erase this person"), type="primary", disabled=typed.strip() != person)
    if not button:
        return
    try:
        receipt = shell.ask(routes.erase(person))
    except SourceError as failure:
        shell.explain(failure)
        return
    for name in (_PERSON, _KEPT, _MATCHES, f"erase-{person}"):
        st.session_state.pop(name, None)
    st.session_state[_RECEIPT] = receipt
    st.rerun()


def _receipt() -> None:
    """Draw the receipt of the last erasure."""
    receipt = st.session_state.get(_RECEIPT)
    if receipt is None:
        return
    due = times.moment(receipt.due_at)
    st.success(
        _(
            "**The person is erased**, completely by {due}. Keep the number of the receipt:",
            due=due,
        ),
        icon=":material/task_alt:",
    )
    st.code(receipt.receipt, language=None)
