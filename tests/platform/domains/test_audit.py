"""Audit: without consent, answers of one domain are the same whether or not the other has data.

The answers of the GET routes that a caller without the rights of an administrator may use, of those
about the person, and of recommendations, searches, assignments and profiles are compared byte by
byte: once with a profile of the other domain at hand, once
without. Random ids, times and positions in the own log are blanked, and a second run with a profile
shows that nothing else varies. A check of consent that is left out must be found.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from tests.platform.domains.world import NEW, NOW, Domain, prepare

from tactful.http.routes import ENDPOINTS
from tactful.server.lifecycle import LifeCycles
from tactful.util.yielding_lock import YieldingLock

# Two trainings and six servers; the guarantee is the purpose of the whole feature.
pytestmark = pytest.mark.slow

PUBLIC = {None, "any", "recommend", "analyst"}
ABOUT_A_PERSON = {
    "/v1/users/{user_id}/features",
    "/v1/users/{user_id}/consent",
    "/v1/users/{user_id}/export",
    "/v1/users/{user_id}/timeline",
}
STREAMS = {"/v1/events/stream", "/v1/flags/stream"}
BLANKED = {"recommendation_id", "took_ms", "request_id", "event_id", "loaded_at", "key", "key_id"}
BLANKED |= {"token", "payload", "public_key", "signature", "issued_at", "duration_ms", "position"}
ABSENT = "no profile exists"
PARAMETERS = {
    "name": "x",
    "conclusion": "x",
    "version": "1",
    "key": "x",
    "run": "x",
    "domain": "shop",
    "receipt": "x",
}


def answers(domain: Domain, other: str, token: str) -> dict[str, bytes]:
    """Hand a token over, and return every answer by its request."""
    person, known = {"user_id": NEW}, {"user_id": "p-5"}
    item = f"{domain.name}-4"
    found = {}

    def ask(method: str, path: str, body: Any = None) -> None:
        sent = {} if body is None else {"json": body}
        answer = domain.http.request(method, path, **sent)
        shown = {name: it for name, it in (body or {}).items() if name != "token"}
        found[f"{method} {path} {json.dumps(shown)}"] = b"%d %s" % (
            answer.status_code,
            blanked(answer.content),
        )

    ask("POST", f"/v1/domains/{other}/profiles", {**person, "token": token})
    ask("POST", f"/v1/domains/{other}/tokens", person)
    for body in (person, known, {}):
        ask("POST", "/v1/recommend", {**body, "count": 20})
        ask("POST", "/v1/assign", body or {"user_id": "x"})
    ask("POST", "/v1/recommend/batch", {"requests": [person, known]})
    for endpoint in ENDPOINTS:
        public = endpoint.scope in PUBLIC or endpoint.path in ABOUT_A_PERSON
        if endpoint.method == "GET" and public and endpoint.path not in STREAMS:
            parameters = {**PARAMETERS, "item_id": item, "user_id": NEW}
            ask("GET", endpoint.path.format(**parameters))
    # At last, since searches are logged, which other answers might show or not; and for one item,
    # since the index orders equal ones by chance.
    for body in (person, known, {}):
        ask("POST", "/v1/search", {**body, "query": "27"})
    return found


def blanked(content: bytes) -> bytes:
    try:
        return json.dumps(_blanked(json.loads(content))).encode()
    except ValueError:
        return content


def _blanked(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: None if k in BLANKED else _blanked(it) for k, it in value.items()}
    return [_blanked(it) for it in value] if isinstance(value, list) else value


def differences(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> set[str]:
    assert one.keys() == other.keys()
    return {request for request in one if one[request] != other[request]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Domain, Domain]:
    return prepare(tmp_path_factory.mktemp("audit"))


def copied(domain: Domain, folder: Path) -> Domain:
    """Copy an installation, so that every run begins from the same data."""
    settings = domain.settings
    data = folder / domain.name / "data"
    shutil.copytree(settings.storage.data, data)
    return Domain(domain.name, replace(settings, storage=replace(settings.storage, data=data)))


def token_of(domain: Domain, receiving: str, folder: Path, person: str) -> str:
    """Fetch a profile from a domain in which the person consents, and only there."""
    pair = f"{domain.name}>{receiving}"
    with copied(domain, folder).served() as served:
        served.consent(person, pair=pair)
        path = f"/v1/domains/{receiving}/tokens"
        answer = served.http.post(path, json={"user_id": person})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])


@contextmanager
def steady(domain: Domain, folder: Path) -> Iterator[Domain]:
    """Serve a copy whose clock stands still and whose life-cycle model is never fitted."""
    with (
        mock.patch("tactful.server.resources.now_ms", lambda: NOW),
        mock.patch.object(LifeCycles, "step", lambda _: []),
        copied(domain, folder).served() as served,
    ):
        yield served


def run(domain: Domain, other: str, folder: Path, token: str) -> dict[str, bytes]:
    with steady(domain, folder) as served:
        settle(served)
        return answers(served, other, token)


def settle(domain: Domain) -> None:
    """Draw nothing by chance, count what is popular now, and log no impression meanwhile."""
    assert domain.live is not None
    platform = domain.live.platform
    recommender: Any = platform.recommender
    numbers = itertools.count()
    recommender._options = replace(
        recommender._options, new_id=lambda: f"{next(numbers):032x}", ids=None
    )
    recommender._rng = np.random.default_rng(1)
    recommender._models.current.live.counted_at = -math.inf
    recommender.refresh(YieldingLock(platform.lock.inner))
    recent: Any = platform.recent
    recent.note = lambda *_: None


def withdrawn(domain: Domain, other: str, folder: Path, token: str) -> dict[str, bytes]:
    """Answer after a person agreed, handed a token over, and withdrew."""
    with steady(domain, folder) as served:
        pair = f"{other}>{domain.name}"
        served.consent(NEW, pair=pair)
        body = {"user_id": NEW, "token": token}
        answer = served.http.post(f"/v1/domains/{other}/profiles", json=body)
        assert answer.is_success == (token != ABSENT), answer.text
        served.consent(NEW, False, pair=pair)
        settle(served)
        return answers(served, other, ABSENT)


def leak(*_: Any, **__: Any) -> bool:
    """Planted bug: a check of consent that always agrees."""
    return True


@pytest.mark.parametrize("direction", ["magazine", "shop"])
def test_without_consent_nothing_of_the_other_domain_shows(
    trained: tuple[Domain, Domain], tmp_path: Path, direction: str
) -> None:
    domains = {domain.name: domain for domain in trained}
    receiving = domains.pop(direction)
    (releasing,) = domains.values()
    person = NEW if direction == "magazine" else "p-5"
    with mock.patch("tactful.server.resources.now_ms", lambda: NOW):
        token = token_of(releasing, direction, tmp_path / "token", person)
    other = releasing.name
    there = run(receiving, other, tmp_path / "there", token)
    again = run(receiving, other, tmp_path / "again", token)
    absent = run(receiving, other, tmp_path / "absent", ABSENT)
    assert differences(there, again) == set(), "the audit must blank what varies by itself"
    assert differences(there, absent) == set()
    assert len(there) > 50
    with mock.patch("tactful_privacy.people.consent.Consents.crosses", leak):
        leaking = run(receiving, other, tmp_path / "leaking", token)
        nothing = run(receiving, other, tmp_path / "nothing", ABSENT)
    found = differences(leaking, nothing)
    assert f"POST /v1/domains/{other}/profiles" in " ".join(found)
    if direction == "magazine":  # its model reads profiles of the shop
        shown = [it for it in found if it.startswith("POST /v1/recommend ") and NEW in it]
        assert shown, "the recommendations show the profile that crossed without consent"


def test_after_a_withdrawal_nothing_of_the_other_domain_shows(
    trained: tuple[Domain, Domain], tmp_path: Path
) -> None:
    shop, magazine = trained
    with mock.patch("tactful.server.resources.now_ms", lambda: NOW):
        token = token_of(shop, "magazine", tmp_path / "token", NEW)
    there = withdrawn(magazine, "shop", tmp_path / "there", token)
    absent = withdrawn(magazine, "shop", tmp_path / "absent", ABSENT)
    assert differences(there, absent) == set()


def test_a_refusal_to_release_does_not_say_whether_there_is_a_history(
    trained: tuple[Domain, Domain], tmp_path: Path
) -> None:
    with copied(trained[0], tmp_path).served() as shop:
        path = "/v1/domains/magazine/tokens"
        known, stranger = (
            shop.http.post(path, json={"user_id": person}) for person in (NEW, "nobody")
        )
        assert known.status_code == stranger.status_code == 403
        assert blanked(known.content) == blanked(stranger.content)
