"""Two shops in one server: nothing of one is read with a key of the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.platform.stored.installation import Installation

pytestmark = pytest.mark.slow

DAY = 86_400_000
BEGIN = 1_700_006_400_000  # a midnight
SECRET = "only-shoes-know-this"
SHOPS = ("books", "shoes")
OWN = """
[consent]
default = "assume"
[engine]
commit_ms = 20
[statistics]
definitions = "statistics.yaml"
clock = "replay"
"""
STATISTICS = """
daily_epsilon: "2"
statistics:
  - {name: views, event: view, by: category, keys: [k], pane: 1d, cap: 5, epsilon: "1"}
"""
PARAMETERS = {
    "user_id": "ada",
    "item_id": "shoe",
    "name": "views",
    "id": "1",
}


class Shops:
    """A running server of two shops, and an administrator's client of each."""

    def __init__(self, installation: Installation, keys: dict[str, str]) -> None:
        self.installation, self.keys = installation, keys

    def headers(self, shop: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[shop]}"}

    def serving(self) -> Any:
        return self.installation.serving("nobody")


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Shops:
    folder = tmp_path_factory.mktemp("installation")
    (folder / "tactful.toml").write_text('[server]\nport = 0\n[tenants]\ndirectory = "tenants"\n')
    installation = Installation(folder)
    keys = {}
    for shop in SHOPS:
        installation.command("tenants", "add", shop)
        own = folder / "tenants" / shop
        own.joinpath("tactful.toml").write_text(OWN)
        own.joinpath("statistics.yaml").write_text(STATISTICS)
        made = installation.command_json("keys", "create", "--tenant", shop, "--scope", "admin")
        keys[shop] = made["key"]
    return Shops(installation, keys)


@pytest.fixture(scope="module")
def http(shops: Shops) -> Iterator[httpx.Client]:
    with shops.serving() as http:
        http.headers.pop("authorization")
        fill(http, shops)
        yield http


def fill(http: httpx.Client, shops: Shops) -> None:
    """Give both shops a user of the same name, and shoes a secret in everything."""
    for shop in SHOPS:
        headers = shops.headers(shop)
        properties = {"note": SECRET} if shop == "shoes" else {}
        item = {"item_id": "shoe", "category": "k", "title": SECRET if properties else "book"}
        user = {"user_id": "ada", "properties": properties}
        assert http.put("/v1/items", json=[item], headers=headers).is_success
        assert http.put("/v1/users", json=[user], headers=headers).is_success
        send(http, headers, properties)


def send(http: httpx.Client, headers: dict[str, str], properties: dict[str, str]) -> None:
    events: list[dict[str, Any]] = [
        {"type": "x.clock", "timestamp": BEGIN, "device_id": "clock", "event_id": "1"},
        *(
            {
                "type": "view",
                "timestamp": BEGIN + number,
                "user_id": "ada",
                "item_id": "shoe",
                "event_id": f"view-{number}",
                "properties": properties,
            }
            for number in range(3)
        ),
        {"type": "x.clock", "timestamp": BEGIN + 2 * DAY, "device_id": "clock", "event_id": "2"},
    ]
    answer = http.post("/v1/events", json=events, headers=headers).json()
    assert answer["accepted"] == len(events), answer
    body = {"user_id": "ada", "after": answer["position"]}
    assert http.post("/v1/recommend", json=body, headers=headers).is_success


def operations(http: httpx.Client) -> Iterator[tuple[str, str, Any, bool]]:
    """Yield method, path, body and whether it is public, of each route of the document."""
    document = http.get("/openapi.json").json()
    for template, methods in document["paths"].items():
        path = re.sub(r"\{(\w+)\}", lambda match: PARAMETERS.get(match[1], "1"), template)
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            media = content.get("application/json", {})
            examples = [example["value"] for example in media.get("examples", {}).values()]
            body = next(iter(examples), media.get("example", {}))
            yield method.upper(), path, body, not operation.get("security", True)


def ask(
    http: httpx.Client, method: str, path: str, body: Any, headers: dict[str, str]
) -> tuple[int, str]:
    """Send a request; return its status and the beginning of its body, which may never end."""
    text = ""
    sent = {} if method in ("GET", "DELETE") else {"json": body}
    with http.stream(method, path, headers=headers, timeout=20, **sent) as answer:
        if "event-stream" not in answer.headers.get("content-type", ""):
            text = answer.read().decode("utf-8", "replace")
        return answer.status_code, text


def test_no_route_crosses(http: httpx.Client, shops: Shops) -> None:
    """Every route, with the key of the other shop, by each way to name a shop."""
    books, shoes = shops.headers("books"), shops.headers("shoes")
    assert SECRET in http.get("/v1/items", headers=shoes).text
    seen = 0
    for method, path, body, public in operations(http):
        status, text = ask(http, method, path, body, books)
        assert SECRET not in text, (method, path)
        assert status < 500 or status == 503, (method, path, text)
        status, text = ask(http, method, f"/t/shoes{path}", body, books)
        assert SECRET not in text, (method, path)
        assert public or status == 401, (method, path, status)
        status, text = ask(http, method, f"/t/shoes{path}", body, {})
        assert public or status == 401, (method, path, status)
        status, text = ask(http, method, f"/t/books{path}", body, shoes)
        assert public or status == 401, (method, path, status)
        seen += 1
    assert seen > 100
