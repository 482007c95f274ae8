from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.platform.flags.flag_files import FLAGS
from tests.platform.support import Live, build, small_settings

from tactful.server.platform import Platform


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Live]:
    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        yield live


def test_first(shop: Live) -> None:
    assert shop.http.get("/v1/flags").json() == {
        "version": 0,
        "applied_at": None,
        "flags": [],
        "next_cursor": None,
    }
    print(shop.http.post("/v1/assign", json={"user_id": "ada"}).text)
    answer = shop.http.post("/v1/flags", json={"definitions": FLAGS})
    print(answer.text)
    print(shop.http.post("/v1/assign", json={"user_id": "ada"}).text)
    print(shop.http.get("/v1/flags/payload").text)
    print(shop.http.get("/v1/flags").text)
    print(shop.http.get("/v1/flags/checkout").text)
    print(shop.http.get("/v1/flags/checkout/why?unit=ada").text)
    print(shop.http.get("/v1/flags/结账").text)
    print(shop.http.post("/v1/flags/checkout/kill", json={"reason": "x"}).text)
    print(
        shop.http.post(
            "/v1/flags", json={"definitions": FLAGS.replace("[long, short]", "[short, long]")}
        ).text
    )
    print(shop.http.get("/v1/audit").text)
    assert 0
