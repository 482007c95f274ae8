"""Flags of a page in a real browser, on an origin of its own, against a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.platform.flags.flag_files import FLAGS
from tests.platform.support import Live, build, logged, small_settings, wait_until
from tests.sdk.shop import pages

from benchmarks.browser import Page, browser
from tactful.flags.exposures import EXPOSURE, is_verified
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Event

pytestmark = [pytest.mark.service("chromium", "web"), pytest.mark.timeout(120)]


@dataclass
class Shop:
    page: Page
    live: Live
    data: Path
    admin: dict[str, str]

    def post(self, path: str, body: Any) -> Any:
        answer = self.live.http.post(path, json=body, headers=self.admin)
        assert answer.is_success, answer.text
        return answer.json()

    def exposures(self) -> list[Event]:
        entries = [entry for entry in logged(self.data) if isinstance(entry, Event)]
        return [entry for entry in entries if entry.type == EXPOSURE]


@pytest.fixture(scope="module")
def shop(
    web_client: Path, chromium_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    tmp_path = tmp_path_factory.mktemp("shop")
    with ExitStack() as stack:
        origin = stack.enter_context(pages(web_client))
        settings = small_settings(tmp_path)
        server = replace(settings.server, dev=False, cors_origins=origin)
        live = stack.enter_context(Live(Platform.open(replace(settings, server=server), build)))
        admin = {"x-api-key": live.platform.keys.create(["admin", "recommend"])[0]}
        page = stack.enter_context(browser(chromium_path, tmp_path / "profile"))
        page.open(f"{origin}/")
        page.wait_for("!!window.tactful")
        key = live.platform.keys.create(["browser"])[0]
        options = json.dumps({"url": live.url, "key": key, "flushAfterMs": 30, "spreadMs": 0})
        page.run(
            "const { Flags } = await import('/flags.js');"
            f"window.errors = []; const options = {options};"
            "options.onError = ({ code, message }) => errors.push([code, message]);"
            "window.client = new tactful.Tactful({ ...options, consent: true });"
            "window.read = (attributes) => new Flags({ ...options, client, attributes });"
        )
        shop = Shop(page, live, settings.storage.data, admin)
        shop.post("/v1/flags", {"definitions": FLAGS})
        yield shop


def test_a_page_decides_as_the_server_and_its_exposure_is_verified(shop: Shop) -> None:
    attributes = {"country": "CH", "email": "ada@shop.example"}
    page: dict[str, Any] = shop.page.run(
        f"window.flags = read({json.dumps(attributes)}); await flags.ready(20_000);"
        "const device = client.deviceId;"
        "const value = flags.value('checkout', '?');"
        "return {device, value, arm: flags.explain('checkout').arm, cart: flags.isOn('new-cart'),"
        " banner: flags.value('banner', '?'), chinese: flags.isOn('结账'), errors,"
        " kept: localStorage['tactful.flags.payload']}"
    )
    assert page["errors"] == []
    request = {"device_id": page["device"], "attributes": attributes, "log": False}
    server = shop.post("/v1/assign", request)["flags"]
    assert page["arm"] == server["checkout"]["arm"] is not None
    assert page["value"] == server["checkout"]["value"]
    assert [page["cart"], page["banner"]] == [True, "Spring sale"]
    assert page["chinese"] == server["结账"]["value"]
    assert "ada@" not in page["kept"] and "checkout team" not in page["kept"]
    wait_until(lambda: len(shop.exposures()) == 1)
    (exposure,) = shop.exposures()
    assert is_verified(exposure)
    assert exposure.device_id == page["device"]
    assert exposure.properties["arm"] == page["arm"]


def test_the_next_page_asks_by_the_entity_tag(shop: Shop) -> None:
    version: int = shop.page.run(
        "await read({}).ready(20_000); const start = performance.now();"
        "window.statuses = () => performance.getEntriesByType('resource')"
        ".filter(({ startTime }) => startTime >= start)"
        ".filter(({ name }) => /payload|signing-key/.test(name))"
        ".map(({ responseStatus }) => responseStatus);"
        "const next = read({}); await next.ready(20_000); return next.version"
    )
    assert version == 1
    shop.page.wait_for("statuses().length > 0")
    assert shop.page.run("return statuses()") == [304]


def test_a_kill_reaches_the_page(shop: Shop) -> None:
    script = "window.flags = read({country: 'CH'}); await flags.ready(20_000);"
    assert shop.page.run(f"{script} return flags.isOn('new-cart')") is True
    shop.post("/v1/flags/new-cart/kill", {"reason": "it takes no orders"})
    shop.page.wait_for("flags.explain('new-cart').source === 'off'")
    assert shop.page.run("return [flags.isOn('new-cart'), errors]") == [False, []]
