"""Readers sign in and out, and a session ends with its key; accounts of the shop, in a browser."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from tests.platform.http.issuer import CLIENT, SECRET, Issuer
from tests.platform.support import Live, build, small_settings
from tests.ui.dashboard_process import dashboard, says
from tests.ui.reading import words
from tests.ui.server import FakePlatform

from benchmarks.browser import Page, browser
from benchmarks.ports import free_port
from tactful.config.server import OidcSettings
from tactful.server.platform import Platform
from tactful_ui import ENTRY

KEY = "tactful_0f3a9c21_" + "s" * 43


@pytest.fixture
def guarded(fake: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> FakePlatform:
    """A server that demands `KEY`, and a dashboard without one."""
    monkeypatch.setenv("TACTFUL_URL", fake.url)
    monkeypatch.delenv("TACTFUL_API_KEY", raising=False)
    fake.key = KEY
    fake.sign_in_as("admin")
    return fake


def opened() -> AppTest:
    return AppTest.from_file(ENTRY, default_timeout=30).run()


def press(page: AppTest, label: str) -> None:
    next(button for button in page.button if button.label == label).click().run()


def give(page: AppTest, key: str) -> None:
    page.text_input[0].set_value(key)
    press(page, "Sign in")


def test_a_key_is_in_no_log_and_in_no_address(
    guarded: FakePlatform, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    page = opened()
    give(page, KEY.replace("s", "t"))
    assert "does not know this key" in words(page)
    give(page, f" {KEY} ")
    assert "Signed in as key 0f3a9c21" in words(page) and not page.exception
    secrets = (KEY, "s" * 43, "t" * 43)
    assert not [line for line in caplog.messages for secret in secrets if secret in line]
    assert not [path for path in guarded.asked for secret in secrets if secret in path]
    assert not page.query_params
    assert not [secret for secret in secrets if secret in words(page)]


@pytest.mark.slow
def test_five_wrong_keys_close_the_form_for_a_while(
    guarded: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opened()
    for number in range(5):
        give(page, f"wrong {number}")
        assert "does not know this key" in words(page)
    asked = len(guarded.asked)
    give(page, KEY)
    assert "Too many wrong keys" in words(page)
    assert guarded.asked[asked:].count("/v1/me") == 1, "only the page itself asks who reads"
    wrong, since = page.session_state["wrong_keys"]
    page.session_state["wrong_keys"] = wrong, since - 31
    give(page, KEY)
    assert "Signed in as" in words(page)


@pytest.mark.slow
def test_a_key_that_is_revoked_ends_the_session(guarded: FakePlatform) -> None:
    page = opened()
    give(page, KEY)
    assert "Signed in as" in words(page)
    guarded.key = "another"
    page.session_state["reader"] = None
    page.run()
    assert "no longer valid" in words(page) and "Signed in as" not in words(page)
    assert "api_key" not in page.session_state
    guarded.key = KEY
    give(page, KEY)
    assert "Signed in as" in words(page) and "no longer valid" not in words(page)


@pytest.mark.slow
def test_a_reader_of_the_shared_key_can_sign_in(
    guarded: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TACTFUL_API_KEY", KEY)
    guarded.sign_in_as("analyst", "monitor")
    page = opened()
    assert "The server is ready" in words(page)
    assert [button.label for button in page.button].count("Sign in") == 1
    assert "Sign out" not in [button.label for button in page.button]


def test_rights_that_are_not_enough_are_no_wrong_key(guarded: FakePlatform) -> None:
    refused = {"title": "x", "status": 403, "code": "missing_scope", "detail": "no group of yours"}
    guarded.answer("/v1/me", refused, 403)
    page = opened()
    give(page, KEY)
    assert "Your rights are not enough" in words(page) and "no group of yours" in words(page)


# An account of the shop: a real provider, server, dashboard and browser.

SECRETS = """
[auth]
redirect_uri = "{address}/oauth2callback"
cookie_secret = "a long text for the test, {address}"
client_id = "{client}"
client_secret = "{secret}"
server_metadata_url = "{issuer}/.well-known/openid-configuration"
expose_tokens = "id"
"""
CLICK = "[...document.querySelectorAll('button')].find(it => it.innerText.includes({}))?.click()"


def press_until(page: Page, label: str, holds: str) -> None:
    """Press a button, again if the page has replaced it meanwhile, until something holds."""
    page.wait_for(says(label))
    for _ in range(12):
        page.evaluate(CLICK.format(json.dumps(label)))
        with suppress(TimeoutError):
            page.wait_for(holds, seconds=5)
            return
    page.wait_for(holds)


def sign_in(page: Page, login: str) -> None:
    press_until(page, "Sign in with your account", "document.querySelector('[name=login]') != null")
    page.evaluate(f"document.querySelector('[name=login]').value = {json.dumps(login)}")
    page.evaluate("document.querySelector('button').click()")


@pytest.mark.slow
@pytest.mark.service("chromium")
@pytest.mark.timeout(240)
def test_people_sign_in_with_their_own_accounts(
    tmp_path: Path, chromium_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TACTFUL_API_KEY", raising=False)
    port = free_port()
    settings = small_settings(tmp_path)
    server = replace(settings.server, dev=False)
    with Issuer() as issuer:
        groups: dict[str, Any] = {"admin_groups": "shop-admins", "analyst_groups": "shop-analysts"}
        oidc = OidcSettings(issuer=issuer.url, client_id=CLIENT, **groups)
        text = SECRETS.format(
            address=f"http://127.0.0.1:{port}", client=CLIENT, secret=SECRET, issuer=issuer.url
        )
        (tmp_path / ".streamlit").mkdir()
        (tmp_path / ".streamlit" / "secrets.toml").write_text(text)
        with (
            Live(Platform.open(replace(settings, server=server, oidc=oidc), build)) as live,
            dashboard(live.url, tmp_path, port=port) as address,
            browser(chromium_path, tmp_path / "profile") as page,
        ):
            page.open(address)
            sign_in(page, "ann")
            page.wait_for(says("Signed in as ann@shop.example"))
            assert "id_token" not in page.evaluate("location.href")
            press_until(page, "Sign out", says("Sign in with your account"))
            sign_in(page, "cyd")
            page.wait_for(says("Your rights are not enough"))
            press_until(page, "Sign out", says("Sign in with your account"))
            sign_in(page, "bob")
            page.wait_for(says("Signed in as bob@shop.example"))
            log = (tmp_path / "streamlit.log").read_text()
            assert "eyJ" not in log, "no token is in a log"
            assert os.environ.get("TACTFUL_API_KEY") is None
