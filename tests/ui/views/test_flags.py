"""Page Flags in every state, by AppTest over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from tests.ui.conftest import Open
from tests.ui.reading import words
from tests.ui.server import FakePlatform
from tests.ui.views.test_experiments import example, sound

_KEY = "checkout-form"


def _info(key: str, **changes: Any) -> dict[str, Any]:
    flag = {**example("/v1/flags")["flags"][0], "key": key, "state": "on", "stale": []}
    return {**flag, **changes}


@pytest.fixture
def shop(fake: FakePlatform) -> FakePlatform:
    """A server with a flag, one that was killed, and one that is stale."""
    flags = [
        _info(_KEY),
        _info("banner", state="killed"),
        _info("横幅", stale=["expired", "one value"], expires="2026-01-31"),
    ]
    fake.answer("/v1/flags", {**example("/v1/flags"), "flags": flags, "next_cursor": None})
    details = {**example("/v1/flags/{key}"), "flag": flags[0], "killed": None}
    fake.answer(f"/v1/flags/{_KEY}", details)
    kill = {"at": 1772366400000, "by": "key 0f3a9c21", "reason": "payments fail"}
    fake.answer("/v1/flags/banner", {**details, "flag": flags[1], "killed": kill})
    fake.answer(f"/v1/flags/{_KEY}/kill", details)
    fake.answer("/v1/flags/banner/revive", details)
    fake.answer(f"/v1/flags/{_KEY}/why", example("/v1/flags/{key}/why"))
    return fake


def test_an_analyst_sees_states_and_no_button_or_person(
    shop: FakePlatform, open_page: Open
) -> None:
    shop.sign_in_as("analyst")
    page = open_page("flags")
    text = sound(page)
    assert not page.button and not page.text_input and not page.error
    assert "need a key with `admin`" in text
    assert "Stale flags: 1" in [part.label for part in page.expander]
    asked = {path for path in shop.asked if path.startswith("/v1/flags")}
    assert asked == {"/v1/flags"}, "rules and history name people"


def test_an_admin_sees_rules_history_and_why(shop: FakePlatform, open_page: Open) -> None:
    shop.sign_in_as("admin")
    page = open_page("flags")
    page.selectbox(key="flag").select(_KEY).run()
    text = sound(page)
    assert not page.error and "Who gets which value" in text
    assert "1. **rule-1**: everyone: true" in text
    page.text_input(key="unit").input("ada")
    next(button for button in page.button if button.label == "Explain").click().run()
    assert "**Value:" in sound(page)
    assert f"/v1/flags/{_KEY}/why" in shop.asked
    tables = [frame.value for frame in page.dataframe]
    assert any("differences" in frame.columns for frame in tables)


@pytest.mark.slow
def test_a_kill_needs_a_reason_and_sends_it(shop: FakePlatform, open_page: Open) -> None:
    shop.sign_in_as("admin")
    page = open_page("flags")
    page.selectbox(key="flag").select(_KEY).run()
    kill = next(button for button in page.button if button.label == "Kill")
    kill.click().run()
    assert "Give a reason" in page.error[0].value and not shop.posted
    page.text_input(key=f"reason-{_KEY}-on").input("  payments fail ")
    next(button for button in page.button if button.label == "Kill").click().run()
    assert shop.posted == [(f"/v1/flags/{_KEY}/kill", {"reason": "payments fail"})]


@pytest.mark.slow
def test_a_killed_flag_comes_first_and_is_revived(shop: FakePlatform, open_page: Open) -> None:
    shop.sign_in_as("admin")
    page = open_page("flags")
    assert page.selectbox(key="flag").value == "banner"
    assert "payments fail" in page.error[0].value
    page.text_input(key="reason-banner-killed").input("repaired")
    next(button for button in page.button if button.label == "Revive").click().run()
    assert shop.posted == [("/v1/flags/banner/revive", {"reason": "repaired"})]


@pytest.mark.slow
def test_a_link_opens_its_flag_and_an_unknown_one_the_first(
    shop: FakePlatform, open_page: Open
) -> None:
    shop.sign_in_as("analyst")
    for asked, chosen in (("横幅", "横幅"), ("gone", "banner")):
        page = open_page("flags", key=asked)
        assert page.selectbox(key="flag").value == chosen
        assert page.query_params["key"] in (chosen, [chosen])


def test_a_reason_belongs_to_one_flag_and_one_step(shop: FakePlatform, open_page: Open) -> None:
    shop.sign_in_as("admin")
    page = open_page("flags")
    page.text_input(key="reason-banner-killed").input("repaired").run()
    page.selectbox(key="flag").select(_KEY).run()
    assert page.text_input(key=f"reason-{_KEY}-on").value == ""
    page.text_input(key=f"reason-{_KEY}-on").input("payments fail")
    kill = {"at": 1772366400000, "by": "key 0f3a9c21", "reason": "payments fail"}
    killed = {**example("/v1/flags/{key}"), "flag": _info(_KEY, state="killed"), "killed": kill}
    shop.answer("/v1/flags", {**example("/v1/flags"), "flags": [killed["flag"]]})
    shop.answer(f"/v1/flags/{_KEY}", killed)
    next(button for button in page.button if button.label == "Kill").click().run()
    assert page.text_input(key=f"reason-{_KEY}-killed").value == ""


def test_values_and_texts_are_shown_literally(shop: FakePlatform, open_page: Open) -> None:
    image = "![](https://example.com/seen.png)"
    flag = _info("banner", kind="text", default=image, description=image)
    history = [
        {**line, "change": "changed", "reason": image, "lines": [f"default: 1 → {image}"]}
        for line in example("/v1/flags/{key}")["history"]
    ]
    shop.answer("/v1/flags", {**example("/v1/flags"), "flags": [flag]})
    details = {**example("/v1/flags/{key}"), "flag": flag, "killed": None, "history": history}
    shop.answer("/v1/flags/banner", details)
    shop.sign_in_as("admin")
    page = open_page("flags")
    sound(page)
    drawn = [part.value for part in (*page.markdown, *page.metric, *page.caption)]
    assert not any(image in text for text in drawn)
    assert [part.value for part in page.code] == [f"default: 1 → {image}"]
    assert "Version 7: changed" in words(page)


def test_a_flag_that_is_gone_is_not_a_missing_report(shop: FakePlatform, open_page: Open) -> None:
    shop.answer("/v1/flags/banner", {"title": "There is nothing here", "status": 404}, 404)
    shop.sign_in_as("admin")
    text = sound(open_page("flags"))
    assert "does not have this" in text and "report" not in text


def test_a_refusal_shows_the_reason_of_the_server(shop: FakePlatform, open_page: Open) -> None:
    refusal = {"title": "Wrong", "status": 400, "detail": "attributes is no JSON object"}
    shop.answer("/v1/flags/banner", refusal, 400)
    shop.sign_in_as("admin")
    text = sound(open_page("flags"))
    assert "attributes is no JSON object" in text and "same version" not in text


@pytest.mark.slow
def test_it_is_in_chinese(shop: FakePlatform, open_page: Open) -> None:
    shop.sign_in_as("admin")
    page = open_page("flags")
    page.session_state["language"] = "zh"
    page.run()
    text = words(page)
    assert "功能开关" in text and "紧急关闭" in text and "Default value" not in text


@pytest.mark.slow
def test_an_empty_server_and_failures_say_what_to_do(fake: FakePlatform, open_page: Open) -> None:
    fake.sign_in_as("admin")
    fake.answer("/v1/flags", {"version": 0, "applied_at": None, "flags": [], "next_cursor": None})
    assert "tactful flags apply" in sound(open_page("flags"))
    fake.answer("/v1/flags", {"title": "x", "status": 503, "code": "not_ready"}, 503)
    assert sound(open_page("flags"))
    fake.key = "sesame"
    assert "does not accept the key" in sound(open_page("flags"))
