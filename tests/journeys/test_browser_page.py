"""A web page of another origin asks for recommendations, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from tests.journeys.installation import Shop, Terminal
from tests.sdk.shop import serving

from benchmarks.browser import Page, browser

pytestmark = [pytest.mark.slow, pytest.mark.service("chromium")]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><title>shop</title><p>Tea</p>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output quiet."""


@pytest.fixture
def origin() -> Iterator[str]:
    with serving(_Handler) as url:
        yield url


@pytest.fixture
def page(chromium_path: Path, tmp_path: Path) -> Iterator[Page]:
    with browser(chromium_path, tmp_path / "profile") as page:
        yield page


def fetched(page: Page, shop: Shop, key: str | None = None) -> Any:
    """Send an event and ask for a list from the page; return the items, or the browser's error."""
    event = json.dumps({"event_id": "1", "type": "view", "device_id": "d", "item_id": "tea"})
    headers = {"content-type": "application/json"} | ({"x-api-key": key} if key else {})
    return page.run(
        f"const call = (path, body) => fetch({json.dumps(shop.url)} + path,"
        f" {{method: 'POST', headers: {json.dumps(headers)}, body: JSON.stringify(body)}});"
        "try {"
        f" const sent = await call('/v1/events', [{{...{event}, timestamp: Date.now()}}]);"
        " const answer = await call('/v1/recommend', {device_id: 'd', count: 2});"
        " return [sent.status, (await answer.json()).items.map((item) => item.item_id).sort()];"
        "} catch (error) { return error.message; }"
    )


def describe(terminal: Terminal, shop: Shop, key: str | None = None) -> None:
    (terminal.folder / "items.csv").write_text("sku,name\ntea,Assam\ncup,Cup\n")
    variables = {**shop.terminal.variables, **({"TACTFUL_API_KEY": key} if key else {})}
    sender = Terminal(terminal.programs, terminal.folder, (), variables)
    assert "2 accepted" in sender.run("tactful import items.csv").out


def test_in_dev_a_page_of_this_machine_needs_no_key(
    terminal: Terminal, page: Page, origin: str
) -> None:
    with terminal.serving("--dev") as shop:
        describe(terminal, shop)
        page.open(origin)
        page.wait_for("document.title === 'shop'")
        assert fetched(page, shop) == [202, ["cup", "tea"]]
        # A page of another machine is refused, and the answer says what to set.
        abroad = {"origin": "https://shop.example"}
        answer = shop.http.post("/v1/recommend", json={"device_id": "d"}, headers=abroad)
        assert answer.status_code == 421
        said = answer.json()["detail"]
        assert "pages of 'https://shop.example' are refused" in said
        assert "`server.cors_origins`" in said


def test_a_configured_origin_is_answered_and_another_one_refused(
    terminal: Terminal, page: Page, origin: str
) -> None:
    other = origin.replace("127.0.0.1", "localhost")
    (terminal.folder / "tactful.toml").write_text(f'[server]\ncors_origins = "{origin}"\n')
    key = terminal.run('tactful keys create --scope browser --note "shop pages"').out.strip()
    admin = terminal.run("tactful keys create --scope ingest").out.strip()
    with terminal.serving("") as shop:
        describe(terminal, shop, admin)
        page.open(origin)
        page.wait_for("document.title === 'shop'")
        assert fetched(page, shop, key) == [202, ["cup", "tea"]]
        page.open(other)
        page.wait_for(f"location.origin === '{other}' && document.title === 'shop'")
        assert fetched(page, shop, key) == "Failed to fetch", "the browser hides the answer"
        asked = {"origin": other, "access-control-request-method": "POST"}
        answer = shop.http.options("/v1/recommend", headers=asked)
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_origin")
        detail = f"pages of '{other}' are refused: list the origin in `server.cors_origins`"
        assert answer.json()["detail"] == detail
