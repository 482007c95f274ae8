"""The shop to click in, as a visitor uses it: two devices in headless Chromium."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.platform.demo.shop.shop_process import open_shop

from benchmarks.browser import Page, browser

ROOT = Path(__file__).resolve().parents[4]
AXE = ROOT / "sdk" / "web" / "node_modules" / "axe-core" / "axe.min.js"

_ITEMS = "[...document.querySelectorAll({})].map((it) => it.dataset.item)"

pytestmark = [pytest.mark.slow, pytest.mark.service("chromium"), pytest.mark.timeout(180)]


@dataclass
class Device:
    """A browser of its own, with the shop's page."""

    page: Page
    address: str

    def visit(self, **window: Any) -> None:
        """Open the page and wait for its list."""
        self.page.open(self.address, **window)
        self.page.wait_for(
            "document.readyState === 'complete' && !!document.querySelector('#list li')"
        )

    def listed(self, of: str = "#list") -> list[str]:
        return list(self.page.evaluate(_ITEMS.format(json.dumps(f"{of} > li"))))

    def click(self, selector: str) -> None:
        self.page.run(f"document.querySelector({json.dumps(selector)}).click()")

    def agree(self) -> None:
        self.click("#consent-button")
        self.page.wait_for("document.getElementById('answer').innerText.includes('this device')")

    def choose(self, control: str, value: str) -> None:
        """Choose an option of a control."""
        self.page.run(
            f"const control = document.getElementById({json.dumps(control)});"
            f"control.value = {json.dumps(value)}; control.dispatchEvent(new Event('change'))"
        )

    def open_item(self, selector: str) -> None:
        """Open an item and close it again."""
        self.click(f"{selector} .open")
        self.page.wait_for("document.getElementById('item').open")
        self.click("#item .close")

    def changed(self, before: list[str], of: str = "#list") -> list[str]:
        """The list, once it is another one."""
        items = _ITEMS.format(json.dumps(f"{of} > li"))
        self.page.wait_for(f"{items}.join() !== {json.dumps(','.join(before))}")
        return self.listed(of)

    def said(self, element: str) -> str:
        return str(self.page.evaluate(f"document.getElementById({json.dumps(element)}).innerText"))

    def requests(self) -> int:
        """Requests with events that the page has sent."""
        script = "performance.getEntriesByType('resource').map((it) => it.name)"
        return [str(name).endswith("/v1/events") for name in self.page.evaluate(script)].count(True)

    def events(self) -> int:
        """Events, as the page says."""
        return int(self.said("count").split()[0])


@pytest.fixture(scope="module")
def devices(
    chromium_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Device]]:
    """Two browsers; at the end Ctrl-C ends the shop and its server."""
    folder = tmp_path_factory.mktemp("shop")
    with open_shop(folder / "data") as (process, address), ExitStack() as stack:
        pages = [
            stack.enter_context(browser(chromium_path, tmp_path_factory.mktemp(f"profile{n}")))
            for n in range(2)
        ]
        yield [Device(page, address) for page in pages]
        platform = httpx.get(f"{address}/shop.json", trust_env=False).json()["platform"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        for url in (address, platform):
            with pytest.raises(httpx.ConnectError):
                httpx.get(url, trust_env=False)


@pytest.fixture
def laptop(devices: list[Device]) -> Device:
    """A device without consent and history, and with the page open."""
    device = devices[0]
    device.page.open(f"{device.address}/icon.svg")
    device.page.wait_for("location.pathname === '/icon.svg'")
    device.page.run("localStorage.clear()")
    device.page.complaints.clear()
    device.visit()
    return device


def test_a_click_changes_the_list_at_once(laptop: Device) -> None:
    laptop.agree()
    before = laptop.listed()
    assert len(before) == 12
    laptop.open_item("#latest li:nth-child(2)")
    after = laptop.changed(before)
    assert "what you opened" in laptop.said("list")
    assert len(set(after) & set(before)) < 12
    assert laptop.events() >= 2
    # Hidden is hidden.
    laptop.click("#list .open")
    laptop.page.wait_for("document.getElementById('item').open")
    laptop.click("#hide")
    hidden = after[0]
    laptop.page.wait_for(f"!document.querySelector('#list [data-item={json.dumps(hidden)}]')")


def test_without_consent_nothing_is_stored_or_sent_and_the_page_says_so(laptop: Device) -> None:
    everybody = laptop.listed()
    laptop.open_item("#latest li")
    laptop.page.wait_for("document.getElementById('after').hidden === false")
    assert laptop.listed() == everybody
    assert (laptop.events(), laptop.requests()) == (0, 0)
    assert "No consent: nothing is stored or sent" in laptop.said("consent")
    assert laptop.page.evaluate("Object.keys(localStorage).length") == 0
    assert laptop.page.evaluate("document.getElementById('user').disabled")
    laptop.agree()
    unknown = laptop.listed()
    laptop.open_item("#latest li")
    personal = laptop.changed(unknown)
    assert laptop.events() > 0
    laptop.click("#consent-button")
    assert laptop.changed(personal) == everybody
    sent, requests = laptop.events(), laptop.requests()
    assert requests > 0
    assert "none without consent" in laptop.said("count")
    laptop.open_item("#latest li:nth-child(3)")
    laptop.page.wait_for("document.getElementById('intent').innerText.includes('100 %')")
    assert (laptop.events(), laptop.requests()) == (sent, requests)
    stored = laptop.page.evaluate("Object.keys(localStorage)")
    assert [name for name in stored if name.startswith("tactful.")] == []
    laptop.click("#consent-button")
    laptop.open_item("#latest li")
    laptop.changed(everybody)
    assert laptop.events() > sent, "given again, it goes on, as another device"


def test_a_second_device_has_the_first_ones_history_after_the_login(
    laptop: Device, devices: list[Device]
) -> None:
    phone = devices[1]
    phone.visit()
    laptop.agree()
    laptop.choose("user", "newcomer")
    laptop.page.wait_for("document.getElementById('answer').innerText.includes('newcomer')")
    for place in (4, 5):
        unknown = laptop.listed()
        laptop.open_item(f"#latest li:nth-child({place})")
        laptop.changed(unknown)
    opened = set(laptop.listed("#latest")[3:5])
    phone.agree()
    before = phone.listed()
    assert not opened & set(before)
    phone.choose("user", "newcomer")
    assert set(phone.changed(before)[:2]) == opened
    phone.choose("user", "")
    phone.page.wait_for("!localStorage.getItem('shop.laptop.user')")
    laptop.choose("user", "ada")
    laptop.page.wait_for("document.getElementById('answer').innerText.includes('ada')")
    assert "you had it before" in laptop.said("list")


def test_an_arm_changes_the_order_and_the_reason_is_told(laptop: Device) -> None:
    laptop.agree()
    before = laptop.listed()
    laptop.choose("arm", "cheaper")
    after = laptop.changed(before)
    shop = httpx.get(f"{laptop.address}/shop.json", trust_env=False).json()
    price = {good["item_id"]: good["price"] for good in shop["goods"]}
    assert sum(map(price.__getitem__, after)) < sum(map(price.__getitem__, before))
    assert "Cheaper first" in laptop.said("answer")
    laptop.click("#list .because button")
    laptop.page.wait_for("document.getElementById('why-facts').innerText.includes('1 of 12')")
    assert "Cheaper first" in laptop.said("why-facts")
    assert "price=0.02" in laptop.said("why-facts")


def test_the_intent_leaves_the_page_only_when_it_may(laptop: Device) -> None:
    laptop.page.run(
        "window.bodies = []; const real = window.fetch; window.fetch = (url, options) => {"
        " bodies.push(String(options?.body ?? '')); return real(url, options) }"
    )
    laptop.open_item("#latest li")
    laptop.page.wait_for("document.getElementById('intent').innerText.includes('100 %')")
    category = laptop.said("after-title").removeprefix("This device is after: ")
    sent = "bodies.filter((it) => it.includes('\"intent\"'))"
    assert laptop.page.evaluate(sent) == []
    laptop.click("#tell")
    laptop.page.wait_for(f"{sent}.length > 0")
    (body,) = map(json.loads, laptop.page.evaluate(sent))
    assert body["intent"] == {category: 1}
    assert "device_id" not in body, "there is no consent"


def test_search_and_categories_narrow_the_list(laptop: Device) -> None:
    before = laptop.listed()
    laptop.page.run("document.getElementById('words').value = 'blue lamp'")
    laptop.click("#search button")
    found = laptop.changed(before)
    assert found
    assert all(item.startswith("blue-") and item.endswith("-lamp") for item in found)
    laptop.page.run("document.getElementById('words').value = 'submarine'")
    laptop.click("#search button")
    laptop.page.wait_for("document.getElementById('note').innerText === 'Nothing was found.'")
    laptop.page.run("document.getElementById('words').value = ''")
    laptop.click("#search button")
    laptop.page.wait_for("document.querySelectorAll('#list > li').length === 12")
    laptop.click("[data-category=light]")
    laptop.page.wait_for(
        "!document.querySelector('#list > li:not([data-item*=lamp], "
        "[data-item*=lantern], [data-item*=candle])')"
    )


@pytest.mark.parametrize("window", [{}, {"dark": True}, {"width": 390, "height": 844}])
def test_the_page_is_accessible_and_complains_of_nothing(laptop: Device, window: Any) -> None:
    if not AXE.is_file():
        assert os.environ.get("CI") != "true"
        pytest.skip("no axe here: scripts/web install")
    laptop.visit(**window)
    laptop.agree()
    page = laptop.page
    page.run(AXE.read_text("utf-8"))
    audit = "return (await axe.run()).violations.map((it) => `${it.id}: ${it.nodes[0].html}`)"
    assert page.run(audit) == []
    laptop.click("#popular .open")
    page.wait_for("document.querySelectorAll('#beside li').length > 3")
    assert page.run(audit) == []
    assert page.evaluate("document.activeElement.closest('dialog').id") == "item"
    laptop.click("#item .close")
    laptop.click("#list .because button")
    page.wait_for("document.getElementById('why-facts').innerText !== ''")
    assert page.run(audit) == []
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(wide), "nothing has to be scrolled sideways"
    assert page.complaints == []
