"""Shared parts of the pages: connection, reader, report choice, refresh, errors."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import streamlit as st

from tactful.client import Request
from tactful.client.request import following as following_of
from tactful.client.routes import access as routes
from tactful_ui.components import account, charts, formats, times, words
from tactful_ui.components.words import text as _
from tactful_ui.errors import (
    NoReport,
    NotFound,
    NotSignedIn,
    Refused,
    ServerDown,
    SourceError,
    TooBroadKey,
    Unauthorised,
)
from tactful_ui.report import Report
from tactful_ui.source import ReportSource, Settings, connect

LIVE_SECONDS = 2
"""Refresh interval while a report is being written or missing."""

IDLE_SECONDS = 30
"""Refresh interval of a finished report; a new run of the demo appears within it."""

DEFAULT_REPORT = "demo"

T = TypeVar("T")

_API_KEY, _CONNECTION, _READER, _REPORTS = "api_key", "connection", "reader", "reports"
_ENDED = "session_ended"
_KEPT = (words.KEY, times.KEY, *account.KEPT)
_READER_SECONDS = 60


def settings() -> Settings:
    """Return address and key of the server from the environment or the secrets."""
    try:
        secrets = dict(st.secrets)
    except FileNotFoundError:
        secrets = {}
    return Settings.load(secrets)


def source() -> ReportSource:
    """Return the reader's connection to the server, for all pages of this session."""
    server = _server()
    known = st.session_state.get(_CONNECTION)
    if known is None or known[0] != server:
        known = st.session_state[_CONNECTION] = (server, connect(server))
    return known[1]


def _server() -> Settings:
    """Return the address with the key of the reader, else with that of the environment."""
    server, own = settings(), st.session_state.get(_API_KEY) or account.id_token()
    return replace(server, api_key=own) if own else server


def ask(request: Request[T], *, patient: bool = False) -> T:
    """Send a request with the reader's key; `patient`: its answer may take a minute.

    Raises:
        SourceError: if the server does not answer, or refuses.
    """
    try:
        return source().run(request, patient=patient)
    except NotSignedIn:
        if signed_in():  # the key was revoked, or the token has expired
            account.refuse()
            _forget()
            st.session_state[_ENDED] = True
            st.rerun()
        raise


def ask_all(request: Request[T]) -> list[T]:
    """Send a request for a list, and again for each page that follows; raises as `ask`."""
    pages: list[T] = []
    following: Request[T] | None = request
    while following is not None:
        pages.append(ask(following))
        following = following_of(following, pages[-1])
    return pages


def compute(request: Request[T]) -> T:
    """Send a request that the server computes from its log, such as a read-out.

    Raises:
        SourceError: if the server does not answer within a minute, or refuses.
    """
    with st.spinner(_("The server computes this, which can take a minute.")):
        return ask(request, patient=True)


@dataclass(frozen=True)
class Reader:
    """Reader of the pages.

    Attributes:
        name: as the audit logs name it.
        scopes: rights of the key.
    """

    name: str
    scopes: frozenset[str]

    @property
    def admin(self) -> bool:
        """Whether the reader may see people and exact numbers, and change things."""
        return "admin" in self.scopes

    def may(self, scope: str) -> bool:
        """Return whether the reader has a right."""
        return self.admin or scope in self.scopes


def reader() -> Reader:
    """Return who reads, asked of the server once a minute.

    Raises:
        SourceError: if the server does not answer, or does not accept the key.
        TooBroadKey: if the key of the environment may do more than read.
    """
    server = _server()
    known = st.session_state.get(_READER)
    if known is None or known[0] != server or time.monotonic() - known[1] > _READER_SECONDS:
        caller = ask(routes.me())
        found = Reader(caller.name, frozenset(caller.scopes))
        broad = found.scopes - {"analyst", "monitor"}
        if server.api_key is not None and server.api_key == settings().api_key and broad:
            raise TooBroadKey(", ".join(sorted(broad)))
        known = st.session_state[_READER] = (server, time.monotonic(), found)
    return known[2]


def sign_in() -> None:
    """Draw the ways to sign in: an account, or a key of one's own, which stays in this session."""
    if st.session_state.get(_ENDED):
        st.info(_("Your key or sign-in is no longer valid. Sign in again."))
    account.button()
    with st.form("sign_in", width=480):
        key = st.text_input(_("API key"), type="password", autocomplete="off").strip()
        if st.form_submit_button(_("Sign in")) and key:
            _try(key)


def _try(key: str) -> None:
    """Sign in with a key that the server accepts; say so if it does not."""
    if seconds := account.wait_seconds():
        text = _("Too many wrong keys. Try again in {seconds} seconds.", seconds=seconds)
        st.error(text, icon=":material/timer:")
        return
    try:
        connect(replace(settings(), api_key=key)).run(routes.me())
    except NotSignedIn:
        account.count_wrong_key()
        st.error(_("The server does not know this key."), icon=":material/key_off:")
    except SourceError as failure:
        explain(failure)
    else:
        _forget()
        st.session_state[_API_KEY] = key
        st.rerun()


def signed_in() -> bool:
    """Return whether the reader has signed in, by a key of their own or an account."""
    return _API_KEY in st.session_state or account.id_token() is not None


def shares_a_key() -> bool:
    """Return whether the reader reads with the key of the environment."""
    return not signed_in() and settings().api_key is not None


def sign_out() -> None:
    """Forget the reader's key or account, and everything that was read with it."""
    _forget()
    account.leave()


def _forget() -> None:
    for name in list(st.session_state):
        if name not in _KEPT:
            del st.session_state[name]


def explained(draw: Callable[[], None]) -> Callable[[], None]:
    """Return a page that explains in its place why the server does not answer it."""

    @functools.wraps(draw)
    def page() -> None:
        try:
            draw()
        except SourceError as failure:
            explain(failure)

    return page


def section(title: str, fetch: Callable[[], T], draw: Callable[[T], None]) -> None:
    """Draw a section; a failure to fetch its data is explained in its place."""
    st.subheader(title, anchor=False)
    try:
        data = fetch()
    except SourceError as failure:
        explain(failure)
    else:
        draw(data)


def palette() -> charts.Palette:
    """Return the colours for the reader's theme."""
    return charts.DARK if st.context.theme.type == "dark" else charts.LIGHT


def heading(title: str, subtitle: str) -> None:
    """Draw title and subtitle of a page."""
    st.title(title, anchor=False)
    st.caption(subtitle)


def current_report(server: ReportSource) -> Report:
    """Return the chosen report; a selection appears only for several reports."""
    names = sorted(server.report_names(), key=lambda name: (name != DEFAULT_REPORT, name))
    if not names:
        raise NoReport("the server has no report yet")
    name = names[0]
    if len(names) > 1:
        name = st.selectbox("Report", names, key="report") or name
    return server.report(name)


def report_if_any(server: ReportSource) -> Report | None:
    """Return the chosen report, or None if the server has none."""
    try:
        return current_report(server)
    except NoReport:
        return None


def has_report() -> bool:
    """Return whether the server has a report, asked once a minute."""
    server = _server()
    known = st.session_state.get(_REPORTS)
    if known is None or known[0] != server or time.monotonic() - known[1] > _READER_SECONDS:
        try:
            found = bool(source().report_names())
        except SourceError:
            found = False
        known = st.session_state[_REPORTS] = (server, time.monotonic(), found)
    return bool(known[2])


def live(draw: Callable[[Report], None]) -> None:
    """Draw the current report repeatedly: often while it grows, then rarely.

    A failure to fetch it is explained in its place, and the next refresh tries again.
    """
    settled = bool(st.session_state.get("settled", False))

    def refresh() -> None:
        report, failure = None, None
        try:
            report = current_report(source())
        except SourceError as error:
            failure = error
        now_settled = report is not None and report.finished
        if now_settled != settled:
            # The interval is part of the fragment's definition, which only a full run renews.
            st.session_state["settled"] = now_settled
            st.rerun()
        if report is not None:
            draw(report)
        elif failure is not None:
            explain(failure)

    st.fragment(refresh, run_every=IDLE_SECONDS if settled else LIVE_SECONDS)()


def explain(failure: SourceError) -> None:
    """Show what is missing and the command that provides it."""
    url = settings().url
    if isinstance(failure, ServerDown):
        st.error(
            _("**The server does not answer** at `{url}`. Start it with:", url=url),
            icon=":material/cloud_off:",
        )
        st.code("tactful serve --dev", language=None)
        st.markdown(
            _(
                "`--dev` serves this machine only and requires no key. If the server runs "
                "elsewhere, set its address in `TACTFUL_URL` and restart the dashboard. Then "
                "reload this page."
            )
        )
    elif isinstance(failure, NotSignedIn):
        st.error(
            _(
                "**The server at `{url}` does not accept the key.** The dashboard needs an API key "
                "with the scope `analyst`:",
                url=url,
            ),
            icon=":material/key:",
        )
        st.code("export TACTFUL_API_KEY=…\ntactful dashboard", language=None)
        st.markdown(_("The key can also be set in `.streamlit/secrets.toml` as `TACTFUL_API_KEY`."))
    elif isinstance(failure, TooBroadKey):
        st.error(
            _(
                "**The key of the environment may do more than read** (it has the scope {scope}). "
                "Everybody who opens this page would have these rights. Give `TACTFUL_API_KEY` a "
                "key with `analyst` and `monitor` only, and sign in with a key of your own:",
                scope=str(failure),
            ),
            icon=":material/key_off:",
        )
    elif isinstance(failure, Unauthorised):
        st.error(_("**Your rights are not enough for this.**"), icon=":material/lock:")
        st.caption(formats.plain(str(failure)))
    elif isinstance(failure, NoReport):
        st.info(
            _("**There is no report yet.** The demo replays real shopping data and writes one:"),
            icon=":material/hourglass_empty:",
        )
        st.code("scripts/demo --quick", language=None)
        st.caption(_("It appears here while the demo runs."))
    elif isinstance(failure, NotFound):
        st.info(_("**The server does not have this.**"), icon=":material/search_off:")
        st.caption(formats.plain(str(failure)))
    elif isinstance(failure, Refused):
        st.error(formats.plain(str(failure)), icon=":material/error:")
    else:
        st.error(
            _(
                "**The server's answer cannot be shown.** {reason}",
                reason=formats.plain(str(failure)),
            ),
            icon=":material/error:",
        )
        st.caption(_("Do the server and the dashboard come from the same version of tactful?"))


def pending(title: str) -> None:
    """Show that a section is not in the report yet."""
    st.caption(f"{title}: not in this report yet.")
