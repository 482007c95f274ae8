"""Actions of the page "Models": train now, promote, roll back, and their audit log."""

from __future__ import annotations

from typing import Any

import streamlit as st

from tactful.client import Request
from tactful.client.messages import ModelChanges, ModelVersions, TrainingState
from tactful.client.routes import models as routes
from tactful_ui.components import formats, shell, tables, times
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError

_LIVE_SECONDS = 2
_DONE = "model_change"


def draw(found: ModelVersions) -> None:
    """Draw what an administrator may change."""
    if said := st.session_state.pop(_DONE, None):
        st.success(said, icon=":material/check:")
    st.subheader(_("Train now"), anchor=False)
    _training()
    if found.versions:
        promote, back = st.columns(2)
        with promote:
            _promote(found)
        with back:
            _roll_back(found)
    shell.section(_("Changes"), lambda: shell.ask(routes.log(limit=50)), _log)


@st.fragment(run_every=_LIVE_SECONDS)
def _training() -> None:
    """Draw the training that runs, or the form that starts one; refreshed by itself."""
    try:
        state = shell.ask(routes.training())
    except SourceError as failure:
        shell.explain(failure)
        return
    if state.running:
        st.session_state["training"] = True
        share = state.progress or 0.0
        stage = formats.plain(state.stage) or _("starting")
        text = _("Training: {stage}, {share}", stage=stage, share=formats.percent(share, 0))
        st.progress(min(max(share, 0.0), 1.0), text=text)
        return
    if st.session_state.pop("training", False):
        st.rerun(scope="app")  # a new version is in the table
    _last(state)
    with st.form("train", border=False):
        reason = st.text_input(_("Reason of the training"), max_chars=500)
        promote = st.checkbox(_("Let it serve at once if it is no worse than the champion"))
        if st.form_submit_button(_("Train now"), icon=":material/play_arrow:"):
            if not reason.strip():
                st.warning(_("Give a reason: it is kept in the audit log."))
                return
            if _changed(routes.train(reason=reason.strip(), promote=promote)) is not None:
                st.rerun(scope="app")


def _last(state: TrainingState) -> None:
    last = state.latest
    if state.error:
        st.error(
            _("The last training failed: {reason}", reason=formats.plain(state.error)),
            icon=":material/error:",
        )
    elif last is not None and last.state == "failed":
        reason = formats.plain(last.error or "")
        st.error(_("The last training failed: {reason}", reason=reason), icon=":material/error:")
    elif last is not None:
        st.caption(_("The last training began on {at}.", at=times.moment(last.begun_at)))


def _promote(found: ModelVersions) -> None:
    st.markdown(_("**Promote**"))
    others = [it.version for it in found.versions if "champion" not in it.aliases]
    if not others:
        st.caption(_("There is no other version."))
        return
    with st.form("promote", border=False):
        chosen = st.selectbox(_("Version to promote"), others)
        reason = st.text_input(_("Reason of the promotion"), max_chars=500)
        if st.form_submit_button(_("Promote"), icon=":material/arrow_upward:"):
            _change(routes.promote(chosen, reason=reason.strip()), reason)


def _roll_back(found: ModelVersions) -> None:
    st.markdown(_("**Roll back**"))
    previous = next((it.version for it in found.versions if "previous" in it.aliases), None)
    if previous is None:
        st.caption(_("No champion was replaced yet."))
        return
    with st.form("rollback", border=False):
        st.markdown(_("Version {version} serves again.", version=previous))
        reason = st.text_input(_("Reason of the rollback"), max_chars=500)
        if st.form_submit_button(_("Roll back"), icon=":material/undo:"):
            _change(routes.roll_back(reason=reason.strip()), reason)


def _change(request: Request[Any], reason: str) -> None:
    if not reason.strip():
        st.warning(_("Give a reason: it is kept in the audit log."))
        return
    with st.spinner(_("The registry is asked; this takes some seconds.")):
        done = _changed(request)
    if done is not None:
        st.session_state[_DONE] = _("Version {version} is the champion.", version=done.version)
        st.rerun()


def _changed(request: Request[Any]) -> Any:
    """Send a change; a refusal is shown in its place."""
    try:
        return shell.ask(request)
    except SourceError as failure:
        shell.explain(failure)
        return None


def _log(log: ModelChanges) -> None:
    if not log.changes:
        st.caption(_("Nothing was trained or promoted yet."))
        return
    rows = [
        {
            _("Time"): times.moment(change.begun_at),
            _("Action"): change.action,
            _("Version"): change.version,
            _("Previous"): change.previous,
            _("By"): change.changed_by,
            _("Reason"): change.reason,
            _("State"): change.state,
        }
        for change in log.changes
    ]
    tables.show(rows, "model-changes")
