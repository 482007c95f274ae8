"""A profile crosses between two servers: used by consent alone, and gone with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from unittest import mock

import pytest
from tests.platform.domains.world import NEW, NOW, Domain, cross, prepare, taste_of
from tests.platform.support import wait_until

from tactful.metadata.crossed_profiles import profiles_of

pytestmark = pytest.mark.slow  # two trainings; the parts have short tests of their own


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Domain, Domain]:
    return prepare(tmp_path_factory.mktemp("domains"))


@pytest.fixture
def domains(trained: tuple[Domain, Domain]) -> Iterator[tuple[Domain, Domain]]:
    with ExitStack() as stack:
        yield stack.enter_context(trained[0].served()), stack.enter_context(trained[1].served())


def test_a_new_person_gets_items_of_the_taste_that_crossed(
    domains: tuple[Domain, Domain],
) -> None:
    shop, magazine = domains
    before = magazine.shown(NEW)
    assert sum(taste_of(it) == 3 for it in before) < 4, "popular items are of another taste"
    refused = shop.http.post("/v1/domains/magazine/tokens", json={"user_id": NEW})
    assert (refused.status_code, refused.json()["code"]) == (403, "no_consent")
    shop.consent(NEW)
    token = shop.http.post("/v1/domains/magazine/tokens", json={"user_id": NEW}).json()["token"]
    body = {"user_id": NEW, "token": token}
    refused = magazine.http.post("/v1/domains/shop/profiles", json=body)
    assert (refused.status_code, refused.json()["code"]) == (403, "no_consent")
    magazine.consent(NEW)
    taken = magazine.http.post("/v1/domains/shop/profiles", json=body)
    assert taken.status_code == 200 and taken.json()["used"]
    again = magazine.http.post("/v1/domains/shop/profiles", json=body)
    assert again.status_code == 422 and "used before" in again.json()["detail"]
    assert all(taste_of(it) == 3 for it in magazine.shown(NEW)), "all ten are of her taste"
    (crossed,) = magazine.http.get(f"/v1/users/{NEW}/features").json()["crossed"]
    assert (crossed["releasing"], crossed["used"]) == ("shop", True)
    (exported,) = magazine.http.get(f"/v1/users/{NEW}/export").json()["crossed_profiles"]
    assert len(exported["vector"]) == 4 and exported["person"] == NEW

    magazine.consent(NEW, False)
    assert magazine.shown(NEW) == before, "nothing is used from the withdrawal on"
    magazine.consent(NEW)
    assert magazine.shown(NEW) == before, "a withdrawal deletes the profile"
    assert magazine.http.get(f"/v1/users/{NEW}/export").json()["crossed_profiles"] == []
    cross(shop, magazine, NEW)
    assert magazine.shown(NEW) != before
    accesses = shop.http.get(f"/v1/users/{NEW}/accesses").json()["accesses"]
    assert "release" in {it["action"] for it in accesses}


def test_a_device_without_an_account_carries_its_own_profile(
    domains: tuple[Domain, Domain],
) -> None:
    """A visitor of the shop is known by the device, and so is the reader of the magazine."""
    shop, magazine = domains
    events = [
        {"type": "purchase", "device_id": "d-1", "item_id": f"shop-{number}", "timestamp": NOW}
        for number in (2, 6, 10, 14)
    ]
    sent = shop.http.post("/v1/events", json=events)
    shop.http.post("/v1/recommend", json={"after": sent.json()["position"]})
    for domain in domains:
        domain.consent("device:d-1")
    token = shop.http.post("/v1/domains/magazine/tokens", json={"device_id": "d-1"}).json()
    body = {"device_id": "r-9", "token": token["token"]}
    refused = magazine.http.post("/v1/domains/shop/profiles", json=body)
    assert refused.json()["code"] == "no_consent", "the consent is that of the reader"
    magazine.consent("device:r-9")
    assert magazine.http.post("/v1/domains/shop/profiles", json=body).json()["used"]
    answer = magazine.http.post("/v1/recommend", json={"device_id": "r-9", "count": 8}).json()
    assert all(taste_of(it["item_id"]) == 2 for it in answer["items"])
    empty = shop.http.post("/v1/domains/magazine/tokens", json={"device_id": "d-2"})
    assert empty.json()["code"] == "no_consent"
    magazine.consent("device:d-1", pair="magazine>shop")
    nothing = magazine.http.post("/v1/domains/shop/tokens", json={"device_id": "d-1"})
    assert nothing.status_code == 404 and "no history" in nothing.json()["detail"]

    login = {"type": "x.login", "user_id": "bob", "device_id": "r-9", "timestamp": NOW}
    sent = magazine.http.post("/v1/events", json=[login])
    magazine.http.post("/v1/recommend", json={"after": sent.json()["position"]})
    magazine.consent("device:r-9", pair="magazine>shop")
    refused = magazine.http.post("/v1/domains/shop/tokens", json={"device_id": "r-9"})
    assert refused.json()["code"] == "no_consent", "bob, who logged in there, never agreed"
    export = "/v1/users/device:r-9/export"
    assert len(magazine.http.get(export).json()["crossed_profiles"]) == 1
    magazine.consent("bob", False)
    assert magazine.http.get(export).json()["crossed_profiles"] == []


def test_a_signal_of_the_browser_is_no_consent_and_a_decision_is(
    trained: tuple[Domain, Domain],
) -> None:
    """With Sec-GPC personalisation by default is refused; a recorded decision about it holds."""
    with trained[0].served() as shop:
        shop.consent("p-7")
        signal = {"sec-gpc": "1"}
        body = {"user_id": "p-7"}
        path = "/v1/domains/magazine/tokens"
        assert shop.http.post(path, json=body).is_success
        refused = shop.http.post(path, json=body, headers=signal)
        assert refused.json()["code"] == "no_consent"
        shop.consent("p-7", pair="personalisation")
        assert shop.http.post(path, json=body, headers=signal).is_success
        shop.consent("p-7", False, pair="personalisation")
        assert shop.http.post(path, json=body).json()["code"] == "no_consent"


@mock.patch("tactful.server.background._ERASE_S", 0.2)
def test_an_erasure_takes_the_profile_along(domains: tuple[Domain, Domain]) -> None:
    shop, magazine = domains
    for domain in domains:
        domain.consent("p-21")
    cross(shop, magazine, "p-21")
    receipt = magazine.http.delete("/v1/users/p-21").json()["receipt"]
    path = f"/v1/erasures/{receipt}"
    wait_until(lambda: magazine.http.get(path).json()["state"] == "done")
    steps = {it["place"]: it["removed"] for it in magazine.http.get(path).json()["steps"]}
    assert steps["domains"] == 1
    assert magazine.live is not None
    metadata = magazine.live.platform.resources.installation.metadata
    assert profiles_of(metadata, ["p-21"]) == [] and profiles_of(metadata, ["p-22"])


def test_worker_processes_use_a_profile_and_stop_at_its_withdrawal(
    trained: tuple[Domain, Domain],
) -> None:
    shop, magazine = trained
    with shop.served(), magazine.served(workers=1):
        magazine.consent(NEW, False)
        before = magazine.shown(NEW)
        for domain in trained:
            domain.consent(NEW)
        cross(shop, magazine, NEW)
        assert all(taste_of(it) == 3 for it in magazine.shown(NEW))
        magazine.consent(NEW, False)
        assert magazine.shown(NEW) == before
