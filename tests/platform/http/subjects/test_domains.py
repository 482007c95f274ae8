"""Routes of profiles that cross: refusals by key, domain, person, consent and model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.platform.support import SHOP, Live, build, small_settings

from tactful.config.domains import DomainSettings
from tactful.domains.keys import make_keys
from tactful.server.platform import Platform
from tactful.util.clock import now_ms

TOKENS, PROFILES = "/v1/domains/magazine/tokens", "/v1/domains/magazine/profiles"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that checks keys, without a model."""
    settings = small_settings(tmp_path_factory.mktemp("shop"))
    keys = Path(tmp_path_factory.mktemp("keys"))
    peers = {"magazine": [make_keys(keys / "magazine", now_ms())[0].public]}
    make_keys(keys / "shop", now_ms())
    domains = DomainSettings(name="shop", peers=peers, keys=keys / "shop")
    server = replace(settings.server, dev=False, cors_origins=SHOP)
    with Live(Platform.open(replace(settings, domains=domains, server=server), build)) as live:
        yield live


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (TOKENS, {"user_id": "ada"}, "missing_scope"),
        (PROFILES, {"user_id": "ada", "token": "x"}, "missing_scope"),
        (TOKENS, {"device_id": "d"}, "no_consent"),
        (PROFILES, {"device_id": "d", "token": "x"}, "no_consent"),
        (TOKENS, {}, "invalid"),
        (TOKENS, {"device_id": "d", "domain": "forum"}, "invalid"),
        (PROFILES, {"device_id": "d"}, "invalid"),
        ("/v1/domains/论坛/tokens", {"device_id": "d"}, "not_found"),
    ],
)
def test_a_page_is_refused(shop: Live, path: str, body: dict[str, str], code: str) -> None:
    headers = {"x-api-key": shop.create_key("browser"), "origin": SHOP}
    answer = shop.http.post(path, json=body, headers=headers)
    assert answer.json()["code"] == code
    assert answer.headers["access-control-allow-origin"] == SHOP


def test_with_consent_the_next_reason_is_named(shop: Live) -> None:
    """A pair of strangers is no purpose, a token must be genuine, and profiles need a model."""
    key = {"x-api-key": shop.create_key("ingest", "recommend")}
    path = "/v1/users/ada/consent"
    for pair in ("shop>magazine", "magazine>shop"):
        assert shop.http.put(path, json={"purposes": {pair: True}}, headers=key).is_success
    refused = shop.http.put(path, json={"purposes": {"shop>forum": True}}, headers=key)
    assert refused.status_code == 422 and "magazine>shop" in refused.json()["detail"]
    forged = {"user_id": "ada", "token": "QUJD"}
    answer = shop.http.post(PROFILES, json=forged, headers=key).json()
    assert (answer["code"], answer["field"]) == ("invalid", "$.token")
    assert "QUJD" not in answer["detail"]
    answer = shop.http.post(TOKENS, json={"user_id": "ada"}, headers=key)
    assert answer.json()["code"] == "not_ready" and "train" in answer.json()["detail"]
    known = shop.http.get("/v1/domains", headers=key).json()
    assert (known["name"], known["embedding"]) == ("shop", None)
    assert known["peers"] == [{"name": "magazine", "embeddings": []}]
