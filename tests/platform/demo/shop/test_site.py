"""The shop's own server: its files, its calls, and whom it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tactful.demo.shop.goods import make_goods
from tactful.demo.shop.run import ShopOptions, run_shop
from tactful.demo.shop.site import Shop, Site, serving, socket_at
from tactful.errors import ConnectionFailed, TactfulError
from tactful.schemas.ingestion import EventsAccepted

GOODS = tuple(make_goods(now=1_790_000_000_000))
PLATFORM = "http://127.0.0.1:9"


class FakeClient:
    """Stands in for the client of the platform, and keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.fails = False

    def events(self, events: list[dict[str, Any]]) -> EventsAccepted:
        if self.fails:
            raise ConnectionFailed("nothing answers")
        self.calls.append(("events", events))
        return EventsAccepted(accepted=1, duplicates=0, rejected=[], position=7)

    def item(self, item_id: str, *, after: int) -> None:
        self.calls.append(("wait", after))

    def recommend(self, **request: Any) -> dict[str, Any]:
        self.calls.append(("recommend", request))
        return {"items": []}


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def shop(client: FakeClient) -> Iterator[httpx.Client]:
    what = Shop(GOODS, {"ada": "Ada"}, {"cheaper": "Cheaper first"}, "ranking")
    listening = socket_at(0)
    with (
        serving(listening, Site(what, client, PLATFORM)) as url,  # type: ignore[arg-type]
        httpx.Client(base_url=url, trust_env=False) as http,
    ):
        yield http


def test_every_file_that_a_page_names_is_there(shop: httpx.Client) -> None:
    page = shop.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert f"connect-src 'self' {PLATFORM};" in page.headers["content-security-policy"]
    for name in ("shop.css", "shop.js", "icon.svg"):
        assert f'"{name}"' in page.text
        assert shop.get(f"/{name}").status_code == 200
    for module in ("./intent.js", "./view.js", "./client/tactful.js"):
        assert f'from "{module}"' in shop.get("/shop.js").text
        assert shop.get(module).headers["content-type"].startswith("text/javascript")
    # A bundle that names its map would send browsers for a file that is not there.
    assert "sourceMappingURL" not in shop.get("/client/tactful.js").text
    assert shop.get(f"/pictures/{GOODS[0].item_id}.svg").headers["content-type"] == "image/svg+xml"
    said = shop.get("/shop.json").json()
    assert said["platform"] == PLATFORM
    assert len(said["goods"]) == len(GOODS)


@pytest.mark.parametrize(
    "path", ["/site.py", "/page/index.html", "/../site.py", "/%2e%2e/site.py", "/pictures/x.svg"]
)
def test_nothing_else_is_served(shop: httpx.Client, path: str) -> None:
    assert shop.get(path).status_code == 404


def test_a_login_links_the_device_and_waits_until_it_counts(
    shop: httpx.Client, client: FakeClient
) -> None:
    said = shop.post("/login", json={"device_id": "d", "user_id": "ada"})
    assert said.json() == {"user_id": "ada"}
    (name, (event,)), waited = client.calls
    assert name == "events"
    assert event.pop("timestamp") > 1_790_000_000_000
    assert event == {"type": "x.login", "device_id": "d", "user_id": "ada"}
    assert waited == ("wait", 7)
    assert shop.post("/logout", json={"device_id": "d"}).status_code == 200
    assert client.calls[2][1][0]["type"] == "x.logout"


def test_the_arm_is_requested_by_the_server(shop: httpx.Client, client: FakeClient) -> None:
    body = {"arm": "cheaper", "request": {"count": 3, "device_id": "other"}, "device_id": "d"}
    assert shop.post("/recommend", json=body).json() == {"items": []}
    asked = {"count": 3, "force": {"ranking": "cheaper"}, "device_id": "d"}
    assert client.calls == [("recommend", asked)]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/login", '{"device_id": "d"}', {}, 422),
        ("/login", '{"device_id": "", "user_id": "ada"}', {}, 422),
        ("/login", "{", {}, 422),
        ("/login", b"\xff", {}, 422),
        ("/nothing", "{}", {}, 404),
        ("/login", "{}", {"content-type": "text/plain"}, 415),
        ("/login", "x" * 70_000, {}, 413),
        ("/login", "{}", {"host": "shop.example"}, 421),
        ("/login", "{}", {"origin": "http://127.0.0.1:1"}, 421),
        ("/login", "{}", {"origin": "null"}, 421),
    ],
)
def test_a_wrong_call_is_refused(
    shop: httpx.Client, client: FakeClient, path: str, body: str, headers: Any, status: int
) -> None:
    sent = {"content-type": "application/json", **headers}
    answer = shop.post(path, content=body, headers=sent)
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert client.calls == []


def test_a_platform_that_is_away_is_told(shop: httpx.Client, client: FakeClient) -> None:
    client.fails = True
    answer = shop.post(
        "/login",
        content=json.dumps({"device_id": "d", "user_id": "ada"}),
        headers={"content-type": "application/json"},
    )
    assert (answer.status_code, answer.json()) == (502, {"detail": "nothing answers"})


def test_a_port_that_is_taken_is_told_before_anything_is_removed(tmp_path: Any) -> None:
    (tmp_path / "precious").write_text("")
    with socket_at(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TactfulError, match=rf"port {port} cannot be used.*--port"):
            run_shop(ShopOptions(tmp_path, port), print)
    with pytest.raises(TactfulError, match="port 70000 cannot be used"):
        run_shop(ShopOptions(tmp_path, 70_000), print)
    with pytest.raises(TactfulError, match=r"holds something.*--directory"):
        run_shop(ShopOptions(tmp_path, 0), print)
    assert (tmp_path / "precious").exists()
