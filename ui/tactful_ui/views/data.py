"""Page "Data": imports and their undo, dead letters, rules, and the quality of every field."""

from __future__ import annotations

import streamlit as st

from tactful.client.messages import (
    DeadLetterPage,
    Import,
    Imports,
    Quality,
    RuleCounts,
    RulesInfo,
    UndoPreview,
)
from tactful.client.routes import data as routes
from tactful_ui.components import formats, shell, tables, times
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError
from tactful_ui.views import live_events, upload

_PREVIEWED = "undo_preview"
_DONE = "data_done"
_LETTERS = 50


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Data"), _("Imports, events that were set aside, and the quality of each field.")
    )
    reader = shell.reader()
    if not reader.admin:
        st.info(
            _("Data are counted exactly and name people, so this page needs the scope `admin`."),
            icon=":material/lock:",
        )
        return
    if done := st.session_state.pop(_DONE, ""):
        st.success(done, icon=":material/check:")
    imports, live, aside, quality = st.tabs([_("Imports"), _("Live"), _("Set aside"), _("Quality")])
    with imports:
        st.subheader(_("Import a file"), anchor=False)
        upload.draw()
        shell.section(_("Imports"), lambda: shell.ask(routes.imports()), _imports)
    with aside:
        shell.section(_("Rules"), lambda: shell.ask(routes.rules()), _rules)
    with quality:
        st.subheader(_("Quality"), anchor=False)
        if st.button(_("Check the latest events"), icon=":material/fact_check:"):
            shell.section(_("Result"), lambda: shell.ask(routes.quality()), _quality)
        st.caption(_("A file is checked before an import by:"))
        st.code("tactful check-data FILE --html report.html", language=None)
    with live:  # last: while it follows, nothing behind it is drawn
        st.subheader(_("Newest events"), anchor=False)
        live_events.draw()


def _imports(found: Imports) -> None:
    # A file that was only previewed has brought nothing.
    imports = [each for each in found.imports if each.accepted or each.refused or each.ended_at]
    if not imports:
        st.info(_("**Nothing was imported yet.** To import a file:"), icon=":material/upload_file:")
        st.code(f"tactful import events.csv --url {shell.settings().url}", language=None)
        return
    tables.show([_row(each) for each in imports], "imports")
    undoable = [each for each in imports if each.undo is None]
    if undoable:
        _undo(undoable)


def _row(each: Import) -> dict[str, object]:
    steps = [] if each.undo is None else each.undo.steps
    words = {
        **{"events": _("events"), "items": _("items"), "users": _("users")},
        **{"running": _("running"), "done": _("done")},
        **{"undoing": _("undoing"), "undone": _("undone")},
    }
    return {
        _("File"): each.name,
        _("Kind"): words[each.kind],
        _("Begun"): times.moment(each.begun_at),
        _("Begun by"): each.begun_by,
        _("Accepted"): each.accepted,
        _("Refused rows"): each.refused,
        _("State"): words[each.state],
        _("Undo"): ", ".join(f"{step.place} {step.removed:,}" for step in steps),
        _("Id"): each.id,
    }


def _undo(undoable: list[Import]) -> None:
    """Draw the undo of one import: first what it takes out, then the button."""
    st.subheader(_("Undo an import"), anchor=False)
    by_id = {each.id: each for each in undoable}
    chosen = st.selectbox(
        _("Import"),
        list(by_id),
        format_func=lambda key: f"{by_id[key].name}, {times.moment(by_id[key].begun_at)}",
    )
    if st.button(_("Show what an undo takes out"), icon=":material/preview:"):
        st.session_state[_PREVIEWED] = chosen
    if st.session_state.get(_PREVIEWED) != chosen:
        return
    shell.section(_("Effect"), lambda: shell.ask(routes.preview_undo(chosen)), _effect)


def _effect(seen: UndoPreview) -> None:
    people, records, items = st.columns(3)
    people.metric(_("People and devices"), formats.count(seen.people), border=True)
    records.metric(_("Records"), formats.count(seen.events + seen.users + seen.items), border=True)
    items.metric(
        _("Items that become unavailable"), formats.count(seen.withdrawn_items), border=True
    )
    if seen.restored_items:
        st.caption(_("{count} items get their other description back.", count=seen.restored_items))
    if seen.models:
        listed = ", ".join(f"{model.name} {model.version}" for model in seen.models)
        st.warning(
            _(
                "These models were trained since, and keep what they learned: {models}",
                models=listed,
            ),
            icon=":material/model_training:",
        )
    if seen.problem:
        st.error(_("It cannot be undone: {reason}", reason=seen.problem), icon=":material/block:")
        return
    st.caption(
        _(
            "Its records leave log, state and features while the server runs. Published "
            "statistics, trained models and sent actions stay."
        )
    )
    if st.button(_("Undo this import"), type="primary", icon=":material/undo:"):
        try:
            shell.ask(routes.undo_import(seen.import_id))
        except SourceError as failure:
            shell.explain(failure)
            return
        st.session_state.pop(_PREVIEWED, None)
        st.session_state[_DONE] = _("The undo has begun; the table shows its steps.")
        st.rerun()


def _rules(found: RulesInfo) -> None:
    if not found.rules:
        st.info(
            _("**No rule judges the events.** Name a file in `engine.rules`; to try one:"),
            icon=":material/rule:",
        )
        st.code("tactful rules check rules.yaml events.ndjson", language=None)
        return
    for column, (title, number) in zip(
        st.columns(4),
        (
            (_("Judged"), found.events),
            (_("Changed"), found.changed),
            (_("Dropped"), found.dropped),
            (_("Set aside"), found.dead_lettered),
        ),
        strict=True,
    ):
        column.metric(title, formats.count(number), border=True)
    tables.show([_rule_row(rule) for rule in found.rules], "rules")
    _letters([rule.rule for rule in found.rules if rule.letters])


def _rule_row(rule: RuleCounts) -> dict[str, object]:
    return {
        _("Rule"): rule.rule,
        _("Action of the rule"): rule.action,
        _("Reason"): rule.reason,
        _("Events since the start"): rule.events,
        _("Dead letters"): rule.letters,
    }


def _letters(rules: list[str]) -> None:
    if not rules:
        st.caption(_("There are no dead letters."))
        return
    chosen = st.selectbox(_("Dead letters of rule"), rules)
    if st.toggle(_("Show letters"), help=_("The look is noted in the trail of accesses.")):
        request = routes.dead_letters(rule=chosen, limit=_LETTERS)
        shell.section(_("Dead letters"), lambda: shell.ask(request), _letter_table)
    if st.button(_("Send them again"), icon=":material/redo:"):
        try:
            done = shell.ask(routes.redrive([chosen]))
        except SourceError as failure:
            shell.explain(failure)
            return
        st.session_state[_DONE] = _(
            "{accepted} accepted, {duplicates} known before, {rejected} refused.",
            accepted=done.accepted,
            duplicates=done.duplicates,
            rejected=done.rejected,
        ) + (" " + _("More are left: send them again.") if done.more else "")
        st.rerun()


def _letter_table(found: DeadLetterPage) -> None:
    rows = [
        {
            _("Received"): times.moment(letter.received),
            _("Reason"): letter.reason,
            _("Type"): (letter.event or {}).get("type", ""),
            _("User, hashed"): (letter.event or {}).get("user_id", ""),
            _("Item"): (letter.event or {}).get("item_id", ""),
            _("Properties"): formats.plain(str((letter.event or {}).get("properties", ""))),
        }
        for letter in found.letters
    ]
    tables.show(rows, "dead-letters")


def _quality(found: Quality) -> None:
    if found.passed:
        st.success(_("Nothing failed."), icon=":material/check:")
    for finding in found.findings:
        place = f"`{finding.of} {finding.field}` ".replace("` `", "").strip()
        draw = st.error if finding.level == "fail" else st.warning
        draw(f"{place} {formats.plain(finding.message)}")
    count, repeated, alike = st.columns(3)
    count.metric(_("Elements"), formats.count(found.elements), border=True)
    repeated.metric(_("Repeated ids"), formats.count(found.duplicates), border=True)
    alike.metric(_("Look-alikes"), formats.count(found.look_alikes), border=True)
    tables.show(
        [
            {
                _("Kind"): each.of,
                _("Field"): each.field,
                _("Missing"): formats.percent(each.missing),
                _("Missing, newer half"): formats.percent(each.missing_after),
                _("Types"): ", ".join(each.types),
                _("Values"): each.distinct,
                _("Lowest"): each.lowest,
                _("Highest"): each.highest,
                _("New values"): ", ".join(each.new_values),
            }
            for each in found.fields
        ],
        "quality",
    )
    st.caption(_("Volume by source"))
    tables.show(
        [
            {
                _("Source"): each.source,
                _("Older half"): each.before,
                _("Newer half"): each.after,
            }
            for each in found.sources
        ],
        "sources",
    )
