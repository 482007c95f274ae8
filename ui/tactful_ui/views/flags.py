"""Page "Flags": state, rules, who gets a value and why, kill switch, history, stale flags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import streamlit as st

from tactful.client.messages import FlagDetails, FlagInfo, FlagWhy
from tactful.client.routes import flags as routes
from tactful_ui.components import controls, formats, shell, tables, times
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError

_PAGE = 1000
_LATEST = 5  # changes that are drawn with their differences


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Flags"),
        _("Switches of the shop: their rules, who gets which value, and what changed."),
    )
    reader = shell.reader()
    found = shell.ask(routes.flags(limit=_PAGE))
    if not found.flags:
        st.info(
            _("**There are no flags yet.** Write them into a file, and apply it:"),
            icon=":material/hourglass_empty:",
        )
        st.code("tactful flags apply flags.yaml", language=None)
        return
    st.caption(
        _("Version {number}, applied {at}", number=found.version, at=times.moment(found.applied_at))
    )
    _stale(found.flags)
    _list(found.flags)
    chosen = _choose(found.flags)
    if not reader.admin:
        _state(chosen, None)
        st.info(
            _("Rules, explanations for a person and the history need a key with `admin`."),
            icon=":material/lock:",
        )
        return
    try:
        details = shell.ask(routes.flag(chosen.key))
    except SourceError as failure:
        shell.explain(failure)
        return
    _state(details.flag, details)
    _rules(details)
    _switch(details.flag)
    _explain(details.flag)
    _history(details)


def _stale(flags: Sequence[FlagInfo]) -> None:
    """Draw the flags that somebody should remove."""
    old = [flag for flag in flags if flag.stale]
    if not old:
        return
    with st.expander(
        _("Stale flags: {count}", count=len(old)), icon=":material/cleaning_services:"
    ):
        st.caption(
            _(
                "A flag is stale after its last day, while nobody evaluates it, or while it gives "
                "everybody one value. Remove it from the code first, then from the file."
            )
        )
        tables.show(
            [
                {
                    _("flag"): flag.key,
                    _("reason"): ", ".join(map(_stale_words, flag.stale)),
                    _("last day"): flag.expires or "–",
                    _("changed"): times.moment(flag.changed_at),
                }
                for flag in old
            ],
            "flags-stale",
        )


def _list(flags: Sequence[FlagInfo]) -> None:
    rows = [
        {
            _("flag"): flag.key,
            _("state"): _state_words(flag.state),
            _("kind"): _kind_words(flag.kind),
            _("default"): _value(flag.default),
            _("rules"): flag.rules,
            _("experiments"): ", ".join(flag.experiments),
            _("changed"): times.moment(flag.changed_at),
        }
        for flag in flags
    ]
    with st.expander(_("All flags"), expanded=len(flags) <= 10):
        tables.show(rows, "flags")


def _choose(flags: Sequence[FlagInfo]) -> FlagInfo:
    """Return the flag of the address, or the one chosen; killed ones come first."""
    by_key = {
        flag.key: flag for flag in sorted(flags, key=lambda it: (it.state != "killed", it.key))
    }
    return by_key[controls.choose(_("Flag"), list(by_key), "flag")]


def _state(flag: FlagInfo, details: FlagDetails | None) -> None:
    state, default, rules = st.columns(3)
    state.metric(_("State"), _state_words(flag.state), border=True)
    default.metric(_("Default value"), formats.plain(_value(flag.default)), border=True)
    rules.metric(_("Rules"), str(flag.rules), border=True)
    if flag.description:
        st.markdown(formats.plain(flag.description))
    about = [_("kind {kind}", kind=_kind_words(flag.kind))]
    if details is not None and details.owner:
        about.append(_("owner {owner}", owner=formats.plain(details.owner)))
    if flag.expires:
        about.append(_("last day {day}", day=flag.expires))
    if flag.remote:
        about.append(_("browsers ask the server for its value"))
    if details is not None:
        about.append(_("evaluated by the server {at}", at=times.moment(details.evaluated_at)))
    st.caption(" · ".join(about))
    if details is not None and details.killed is not None:
        st.error(
            _(
                "**Killed: every unit gets the default value.** {reason} ({author}, {at})",
                reason=formats.plain(details.killed.reason),
                author=formats.plain(details.killed.by),
                at=times.moment(details.killed.at),
            ),
            icon=":material/block:",
        )


def _rules(details: FlagDetails) -> None:
    st.subheader(_("Who gets which value"), anchor=False)
    if not details.rules:
        st.markdown(_("There is no rule: every unit gets the default value."))
        return
    st.caption(_("The first rule that applies gives the value; without one the default counts."))
    tables.show(
        [
            {_("place"): place, _("rule"): rule.id, _("in words"): rule.words}
            for place, rule in enumerate(details.rules, 1)
        ],
        f"{details.flag.key}-rules",
    )
    with st.expander(_("Compiled form")):
        st.json(details.definition, expanded=False)


def _switch(flag: FlagInfo) -> None:
    """Draw the kill switch, or the one that ends a kill."""
    killed = flag.state == "killed"
    title = _("Revive this flag") if killed else _("Kill this flag")
    with st.expander(title), st.form(f"switch-{flag.key}", border=False):
        st.caption(
            _("The flag is on again with its rules, within seconds.")
            if killed
            else _("Every unit gets the default value within seconds, until the flag is revived.")
        )
        reason = controls.reason(f"{flag.key}-{flag.state}")
        if st.form_submit_button(_("Revive") if killed else _("Kill"), type="primary"):
            step = routes.revive if killed else routes.kill
            controls.change(step(flag.key, reason), because=reason)


def _explain(flag: FlagInfo) -> None:
    """Draw the reasons for the value of one unit."""
    with st.expander(_("Why does somebody get this value?")):
        with st.form(f"why-{flag.key}", border=False):
            unit = st.text_input(
                _("User"),
                max_chars=263,
                key="unit",
                help=_("A user id, or `device:` and a device id. The look is recorded."),
            )
            attributes = st.text_input(
                _("Other attributes, as JSON"), value="{}", max_chars=8_000, key="attributes"
            )
            if not st.form_submit_button(_("Explain")):
                return
        if not unit.strip():
            st.error(_("Name a user or a device."))
            return
        try:
            found = shell.ask(routes.why(flag.key, unit.strip(), attributes=attributes))
        except SourceError as failure:
            st.error(formats.plain(str(failure)))
        else:
            _reasons(found)


def _reasons(found: FlagWhy) -> None:
    st.markdown(
        _(
            "**Value: {value}** – {reason}",
            value=formats.plain(_value(found.result.value)),
            reason=formats.plain(found.result.reason),
        )
    )
    if not found.consented:
        st.info(_("This user has not agreed to measurement, so no experiment applies."))
    for experiment, arm in found.sticky.items():
        st.caption(
            _(
                "keeps the arm {arm} of {experiment}",
                arm=formats.plain(arm),
                experiment=formats.plain(experiment),
            )
        )
    if found.steps:
        tables.show(
            [
                {
                    _("rule"): step.rule,
                    _("applies"): _("yes") if step.applies else _("no"),
                    _("reason"): step.why,
                }
                for step in found.steps
            ],
            f"{found.flag}-why",
        )


def _history(details: FlagDetails) -> None:
    """Draw the latest changes with their differences, and all of them as a table."""
    st.subheader(_("History"), anchor=False)
    for line in details.history[:_LATEST]:
        st.markdown(
            _(
                "**Version {number}: {change}**, {at}, {author}. {reason}",
                number=line.version,
                change=_change_words(line.change),
                at=times.moment(line.at),
                author=formats.plain(line.by),
                reason=formats.plain(line.reason),
            )
        )
        if line.lines:
            st.code("\n".join(line.lines), language=None, wrap_lines=True)
    rows = [
        {
            _("time"): times.moment(line.at),
            _("version"): line.version,
            _("change"): _change_words(line.change),
            _("differences"): "; ".join(line.lines),
            _("by"): line.by,
            _("reason"): line.reason,
        }
        for line in details.history
    ]
    with st.expander(_("All changes")):
        tables.show(rows, f"{details.flag.key}-history")


def _value(value: Any) -> str:
    """Return a value of a flag as JSON, short enough for a tile."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _kind_words(kind: str) -> str:
    known = {
        "boolean": _("on or off"),
        "text": _("texts"),
        "number": _("numbers"),
        "json": "JSON",
    }
    return known.get(kind, kind)


def _state_words(state: str) -> str:
    return {"on": _("on"), "killed": _("off (killed)")}.get(state, state)


def _stale_words(reason: str) -> str:
    known = {
        "expired": _("its last day is over"),
        "not evaluated": _("nobody evaluates it"),
        "one value": _("everybody gets one value"),
    }
    return known.get(reason, reason)


def _change_words(change: str) -> str:
    known = {
        "added": _("added"),
        "removed": _("removed"),
        "changed": _("changed"),
        "killed": _("off (killed)"),
        "revived": _("revived"),
    }
    return known.get(change, change)
