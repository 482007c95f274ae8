"""The browser client in a real browser, on a page of its own origin, against a running server."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.platform.support import Live, build, small_settings, wait_until
from tests.sdk.shop import Gate, gate, pages

from benchmarks.browser import Page, browser
from tactful.server.platform import Platform

_visits = itertools.count()

pytestmark = [pytest.mark.service("chromium", "web"), pytest.mark.timeout(120)]


@dataclass
class Shop:
    """A page in a browser, and the server it calls through the gate."""

    page: Page
    pages: str
    live: Live
    gate: Gate
    key: str

    def visit(self, path: str) -> None:
        """Open another page of the shop."""
        self.page.open(f"{self.pages}{path}")
        self.page.wait_for(f"location.pathname === {json.dumps(path)} && !!window.tactful")

    def start(self, script: str = "", **options: Any) -> Any:
        """Make the client of the page; run a script with it."""
        given = {"url": self.gate.url, "key": self.key, "flushAfterMs": 30, **options}
        given = {name: value for name, value in given.items() if value is not None}
        return self.page.run(
            "window.errors = [];"
            f"window.client = new tactful.Tactful({{...{json.dumps(given)},"
            f" onError: (error) => errors.push(error.code)}}); {script}"
        )

    def stored(self) -> dict[str, str]:
        return dict(self.page.run("return {...localStorage, ...sessionStorage}"))

    def nothing_waits(self) -> bool:
        return not [name for name in self.stored() if "queue" in name]

    def views(self, device: str) -> float:
        """How many views of a device the engine counts in the end."""
        position = self.live.platform.position
        body = {"device_id": device, "explain": True, "after": position}
        key = {"x-api-key": self.live.platform.keys.create(["admin"])[0]}
        answer = self.live.http.post("/v1/recommend", json=body, headers=key)
        return float(answer.json()["explanation"]["rules"]["views"])


@pytest.fixture(scope="module")
def opened(
    web_client: Path, chromium_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    with ExitStack() as stack:
        origin = stack.enter_context(pages(web_client))
        settings = small_settings(tmp_path_factory.mktemp("server"))
        server = replace(settings.server, dev=False, cors_origins=origin)
        live = stack.enter_context(Live(Platform.open(replace(settings, server=server), build)))
        items = [{"item_id": f"i-{n}"} for n in range(4)]
        ingest = live.platform.keys.create(["ingest"])[0]
        live.http.put("/v1/items", json=items, headers={"x-api-key": ingest})
        passed = stack.enter_context(gate(live.url))
        profile = tmp_path_factory.mktemp("profile")
        page = stack.enter_context(browser(chromium_path, profile))
        key = live.platform.keys.create(["browser"])[0]
        yield Shop(page, origin, live, passed, key)


@pytest.fixture
def shop(opened: Shop) -> Shop:
    """A fresh page with nothing stored."""
    opened.visit(f"/{next(_visits)}")
    opened.page.run("window.client?.close(); localStorage.clear()")
    opened.gate.offline = False
    opened.gate.trouble.clear()
    opened.gate.seen.clear()
    opened.gate.asked.clear()
    return opened


def arrived(shop: Shop, count: int) -> Callable[[], bool]:
    return lambda: len(shop.gate.events()) >= count


def test_nothing_is_stored_or_sent_before_consent(shop: Shop) -> None:
    got = shop.start(
        "const id = client.track({type: 'view', item_id: 'i-1'});"
        "await client.flush();"
        "const failed = await client.recommend().catch((error) => error.code);"
        "window.dispatchEvent(new Event('pagehide'));"
        "await new Promise((resolve) => setTimeout(resolve, 150));"
        "return [id === undefined, client.deviceId === undefined, client.consented, failed]"
    )
    assert got == [True, True, False, "no_consent"]
    assert shop.stored() == {}
    assert shop.page.run("return document.cookie") == ""
    assert shop.gate.seen == shop.gate.asked == []
    shop.page.run("client.setConsent(true); client.track({type: 'view', item_id: 'i-2'})")
    wait_until(arrived(shop, 1))
    assert [event["item_id"] for event in shop.gate.events()] == ["i-2"]


@pytest.mark.parametrize(
    ("signal", "counts"),
    [("globalPrivacyControl: true", True), ("doNotTrack: '1'", True), ("doNotTrack: '0'", False)],
)
def test_a_signal_of_the_browser_refuses(shop: Shop, signal: str, counts: bool) -> None:
    """Whatever the page says; unless it says that the visitor agreed in spite of the signal."""
    shop.page.run(
        f"for (const [name, value] of Object.entries({{{signal}}}))"
        " Object.defineProperty(navigator, name, {value, configurable: true})"
    )
    got = shop.start(
        "client.track({type: 'view', item_id: 'i-1'});"
        "return [client.optedOut, client.consented, Object.keys(localStorage).length]",
        consent=True,
    )
    assert got[:2] == [counts, not counts]
    assert (got[2] == 0) is counts
    shop.page.run("client.close(); localStorage.clear()")
    agreed = {"consent": True, "honourSignals": False}
    assert shop.start("return [client.optedOut, client.consented]", **agreed) == [False, True]


def test_the_list_for_everybody_names_nobody_and_stores_nothing(shop: Shop) -> None:
    answer = shop.start("return client.recommend({count: 2}, {anonymous: true})")
    assert len(answer["items"]) == 2
    assert shop.gate.seen[-1].body == {"count": 2}
    assert "cookie" not in shop.gate.seen[-1].headers
    assert shop.stored() == {}


def test_an_event_counts_and_names_one_device_and_one_visit(shop: Shop) -> None:
    device = shop.start(
        "client.track({type: 'view', item_id: 'i-1', properties: {price: 2.5}});"
        "client.track({type: 'view', item_id: 'i-2'});"
        "await client.flush(); return client.deviceId",
        consent=True,
    )
    events = shop.gate.events()
    assert {event["device_id"] for event in events} == {device}
    assert len({event["session_id"] for event in events}) == 1
    assert len({event["event_id"] for event in events}) == 2
    assert events[0]["properties"] == {"price": 2.5}
    assert shop.views(device) == 2
    shop.visit("/next")
    assert shop.start("return client.deviceId", consent=True) == device
    shop.page.run("client.track({type: 'view'}); await client.flush()")
    assert shop.gate.events()[-1]["session_id"] == events[0]["session_id"]
    assert shop.nothing_waits()
    # The id is random and not a fingerprint.
    shop.page.run("client.setConsent(false); client.setConsent(true)")
    assert len(device) == 32
    assert shop.page.run("return client.deviceId") != device


def test_withdrawing_wipes_the_queue_and_the_ids_in_all_tabs(shop: Shop) -> None:
    shop.gate.offline = True
    shop.start("client.track({type: 'view'}); await client.flush()", consent=True)
    shop.page.run("localStorage.setItem('tactful.queue.other', '{\"at\": 0, \"events\": []}')")
    shop.page.run("localStorage.setItem('shop.basket', 'tea')")
    assert len(shop.stored()) == 5
    shop.gate.offline = False
    shop.gate.seen.clear()
    shop.page.run("client.setConsent(false)")
    assert shop.stored() == {"shop.basket": "tea"}
    shop.page.run(
        "client.track({type: 'view'}); await client.flush();"
        "window.dispatchEvent(new Event('online'));"
        "await new Promise((resolve) => setTimeout(resolve, 150))"
    )
    assert shop.gate.seen == []
    assert shop.stored() == {"shop.basket": "tea"}


def test_withdrawing_in_another_tab_stops_this_one(shop: Shop) -> None:
    got = shop.start(
        "const frame = document.createElement('iframe'); frame.src = '/frame';"
        "const loaded = new Promise((resolve) => frame.onload = resolve);"
        "document.body.append(frame); await loaded;"
        "const other = new frame.contentWindow.tactful.Tactful({url: 'http://127.0.0.1:9'});"
        "const heard = new Promise((resolve) => window.addEventListener('storage', resolve));"
        "other.setConsent(false); await heard;"
        "return [client.consented, client.track({type: 'view'}) === undefined]",
        consent=True,
    )
    assert got == [False, True]


def test_events_travel_in_batches(shop: Shop) -> None:
    tracks = "for (let n = 0; n < 9; n++) client.track({type: 'view'})"
    shop.start(tracks, consent=True, flushAfterMs=60_000, batchSize=10)
    time.sleep(0.2)
    assert shop.gate.seen == []
    shop.page.run("client.track({type: 'view'})")
    wait_until(shop.nothing_waits)
    shop.page.run("client.track({type: 'view'})")
    time.sleep(0.1)
    assert [len(each.body) for each in shop.gate.seen] == [10]
    assert shop.gate.seen[0].headers["authorization"] == f"Bearer {shop.key}"


def test_what_cannot_be_sent_is_sent_again_and_counts_once(shop: Shop) -> None:
    shop.gate.trouble = [(503, {}), (429, {"retry-after": "1"})]
    # The pauses are random up to one and two seconds; the start of them is enough here.
    track = "Math.random = () => 0.05; client.track({type: 'view'}); return client.deviceId"
    device = shop.start(track, consent=True)
    wait_until(arrived(shop, 3))
    wait_until(shop.nothing_waits)
    assert len({event["event_id"] for event in shop.gate.events()}) == 1
    assert shop.views(device) == 1
    assert shop.page.run("return errors") == ["trouble", "trouble"]


def test_a_pause_that_the_server_asks_for_is_kept(shop: Shop) -> None:
    shop.gate.trouble = [(429, {"retry-after": "3600"})]
    track = "client.track({type: 'view'}); await client.flush();"
    shop.start(
        f"{track}{track} window.dispatchEvent(new Event('online'));"
        "window.dispatchEvent(new Event('pagehide'));"
        "await new Promise((resolve) => setTimeout(resolve, 150))",
        consent=True,
    )
    assert len(shop.gate.seen) == 1
    assert len(queued(shop)) == 2


def queued(shop: Shop) -> list[dict[str, Any]]:
    (found,) = [value for name, value in shop.stored().items() if "queue" in name]
    return list(json.loads(found)["events"])


def test_an_answer_that_was_lost_counts_once(shop: Shop) -> None:
    def answer_is_lost() -> None:
        sent = shop.gate.seen[-1]
        passed = {name: sent.headers[name] for name in ("authorization", "origin")}
        shop.live.http.post("/v1/events", json=sent.body, headers=passed)
        raise ConnectionError("the answer is lost")

    shop.gate.trouble = [answer_is_lost]
    track = "Math.random = () => 0.05; client.track({type: 'view'}); return client.deviceId"
    device = shop.start(track, consent=True)
    wait_until(arrived(shop, 2))
    wait_until(shop.nothing_waits)
    assert shop.views(device) == 1


def test_events_of_a_page_without_network_are_sent_by_the_next_page(shop: Shop) -> None:
    shop.gate.offline = True
    device = shop.start(
        "for (let n = 0; n < 3; n++) client.track({type: 'view'});"
        "await client.flush(); return client.deviceId",
        consent=True,
    )
    shop.visit("/later")
    shop.gate.seen.clear()
    shop.gate.offline = False
    assert len(queued(shop)) == 3
    shop.start()
    time.sleep(0.1)
    assert shop.gate.seen == []  # this page has no consent yet
    shop.page.run("client.setConsent(true)")
    wait_until(arrived(shop, 3))
    wait_until(shop.nothing_waits)
    assert shop.views(device) == 3


def test_the_network_comes_back(shop: Shop) -> None:
    shop.gate.offline = True
    shop.start(
        "Math.random = () => 0.999; client.track({type: 'view'}); await client.flush();"
        "for (let n = 0; n < 9; n++) { window.dispatchEvent(new Event('online'));"
        " await client.flush() }",
        consent=True,
    )
    shop.gate.seen.clear()
    shop.gate.offline = False
    shop.page.run("window.dispatchEvent(new Event('online')); await client.flush()")
    assert len(shop.gate.events()) == 1


def test_the_queue_is_bounded_and_drops_the_oldest(shop: Shop) -> None:
    shop.gate.offline = True
    shop.start(consent=True, maxQueued=5, batchSize=100, flushAfterMs=60_000)
    shop.page.run("for (let n = 0; n < 8; n++) client.track({type: 'view', item_id: `i-${n}`})")
    assert [event["item_id"] for event in queued(shop)] == [f"i-{n}" for n in range(3, 8)]
    assert shop.page.run("return errors") == ["dropped"] * 3


@pytest.mark.parametrize("way", ["keepalive", "beacon"])
def test_leaving_the_page_sends_what_waits(shop: Shop, way: str) -> None:
    if way == "beacon":
        shop.page.run("delete Request.prototype.keepalive")
    track = "client.track({type: 'view', item_id: 'i-1'}); client.track({type: 'leave'});"
    device = shop.start(f"{track} return client.deviceId", consent=True, flushAfterMs=60_000)
    assert shop.gate.seen == []
    shop.visit("/elsewhere")
    wait_until(arrived(shop, 2))
    (left,) = shop.gate.seen
    assert left.query == {"key": [shop.key]}
    assert left.headers["content-type"].startswith("text/plain")
    assert "authorization" not in left.headers
    assert shop.gate.asked == []  # nothing that a page which is gone would have to wait for
    wait_until(lambda: shop.views(device) == 1)
    # Nobody saw the answer, so the next page says it again.
    shop.start(consent=True)
    wait_until(arrived(shop, 4))
    assert shop.views(device) == 1


def test_hiding_the_page_sends_once_and_showing_it_goes_on(shop: Shop) -> None:
    track, hide = "client.track({type: 'view'});", "window.dispatchEvent(new Event('pagehide'));"
    shop.start(f"{track} {hide} {hide}", consent=True, flushAfterMs=60_000)
    wait_until(shop.nothing_waits)
    assert len(shop.gate.events()) == 1
    shop.page.run(f"window.dispatchEvent(new Event('pageshow')); {track} {hide}")
    wait_until(arrived(shop, 2))


PAUSE = "const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));"
SEE = (
    "const see = (state) => { Object.defineProperty(document, 'visibilityState',"
    " {value: state, configurable: true});"
    " document.dispatchEvent(new Event('visibilitychange')); };"
)


def leaves(shop: Shop) -> list[dict[str, Any]]:
    distinct = {event["event_id"]: event for event in shop.gate.events()}
    return [event for event in distinct.values() if event["type"] == "leave"]


def test_each_stay_in_sight_is_sent_once_when_it_ends(shop: Shop) -> None:
    got = shop.start(
        f"{PAUSE}{SEE} client.watchPage('i-1'); await pause(120);"
        "see('hidden'); window.dispatchEvent(new Event('pagehide')); await pause(200);"
        "see('visible'); await pause(60); see('hidden');"
        "return client.dwell.total",
        consent=True,
    )
    wait_until(lambda: len(leaves(shop)) >= 2)
    sent = leaves(shop)
    assert [event["item_id"] for event in sent] == ["i-1", "i-1"]
    first, second = (event["properties"]["dwell_ms"] for event in sent)
    assert 115 <= first < 300
    assert 55 <= second < 190, "time out of sight does not count"
    assert got == first + second


def test_the_next_page_begins_anew_and_the_request_names_the_time(shop: Shop) -> None:
    shop.start(
        f"{PAUSE} client.watchPage('i-1'); await pause(80); client.watchPage();"
        "await pause(30); await client.recommend({context: {page: 'home'}});"
        "await client.recommend({}, {anonymous: true});",
        consent=True,
    )
    wait_until(lambda: len(leaves(shop)) >= 1)
    (left,) = leaves(shop)
    assert left["item_id"] == "i-1"
    asked, anonymous = (each.body for each in shop.gate.seen if each.path == "/v1/recommend")
    assert 25 <= asked["context"]["dwell_now"] < left["properties"]["dwell_ms"]
    assert asked["context"]["page"] == "home"
    assert "context" not in anonymous


def test_of_one_page_half_an_hour_counts_at_most(shop: Shop) -> None:
    shop.start(
        f"{SEE} let now = 1000; performance.now = () => now;"
        "client.watchPage(); now += 1700000; see('hidden'); now += 999; see('visible');"
        "now += 5000000; see('hidden'); see('visible'); now += 5000; see('hidden')",
        consent=True,
    )
    wait_until(lambda: len(leaves(shop)) >= 2)
    assert [it["properties"]["dwell_ms"] for it in leaves(shop)] == [1_700_000, 100_000]


def test_nothing_is_measured_without_consent(shop: Shop) -> None:
    shop.start(
        f"{PAUSE}{SEE} client.watchPage('i-1'); await pause(30); see('hidden'); see('visible');"
        "client.setConsent(true); see('hidden'); see('visible');"
        "client.watchPage('i-2'); await pause(30); client.setConsent(false); see('hidden');"
        "see('visible'); await pause(100);"
        "client.setConsent(true); client.track({type: 'view', item_id: 'i-3'})"
    )
    wait_until(arrived(shop, 1))
    assert leaves(shop) == []


def test_leaving_sends_no_more_than_browsers_let_it(shop: Shop) -> None:
    track = "client.track({type: 'view', properties: {t: '\xfc'.repeat(1000)}})"
    tracks = f"for (let n = 0; n < 60; n++) {track}"
    shop.start(tracks, consent=True, flushAfterMs=60_000, batchSize=100)
    shop.visit("/elsewhere")
    wait_until(arrived(shop, 1))
    sent = len(shop.gate.events())
    assert 20 < sent < 60
    shop.start(consent=True)
    wait_until(lambda: len({event["event_id"] for event in shop.gate.events()}) == 60)


def test_one_event_that_is_refused_does_not_hold_the_others_up(shop: Shop) -> None:
    device = shop.start(
        "client.track({type: 'payment'}); client.track({type: 'nonsense'});"
        "client.track({type: 'view', user_id: 'somebody'}); client.track({type: 'view'});"
        "await client.flush(); return client.deviceId",
        consent=True,
        batchSize=100,
    )
    assert shop.views(device) == 1
    assert shop.page.run("return errors") == ["forbidden", "unknown_type", "forbidden"]
    assert shop.nothing_waits()


def test_a_batch_that_is_too_large_is_cut(shop: Shop) -> None:
    track = "for (let n = 0; n < 150; n++) client.track({type: 'view', properties: {t: long}});"
    script = f"const long = 'x'.repeat(2000); {track} await client.flush(); return client.deviceId"
    device = shop.start(script, consent=True, batchSize=200, flushAfterMs=60_000)
    assert [len(each.body) for each in shop.gate.seen] == [150, 75, 75]
    assert shop.views(device) == 150


def test_a_list_its_impressions_and_its_clicks(shop: Shop) -> None:
    answer = shop.start(
        "window.list = await client.recommend({count: 3, exclude: ['i-0']});"
        "client.impression(list, ['i-1', 'i-3', 'not there']); client.click(list, 'i-3');"
        "await client.flush(); return {list, device: client.deviceId}",
        consent=True,
    )
    listed = answer["list"]
    assert [item["item_id"] for item in listed["items"]] == ["i-1", "i-2", "i-3"]
    request = shop.gate.seen[0]
    assert request.body["device_id"] == answer["device"]
    assert set(request.body) == {"count", "exclude", "device_id", "session_id", "context"}
    assert request.body["context"] == {"consent": "personalisation measurement"}
    events = shop.gate.events()
    said = [f"{it['type']} {it['item_id']} {it['properties']['position']}" for it in events]
    assert said == ["impression i-1 0", "impression i-3 2", "click i-3 2"]
    assert {it["recommendation_id"] for it in events} == {listed["recommendation_id"]}


def test_a_search_is_for_the_device_and_clicks_follow_from_it(shop: Shop) -> None:
    pytest.importorskip("tantivy")
    answer = shop.start(
        "const found = await client.search('i 2', {limit: 4, facets: ['category']});"
        "client.click(found, 'i-2'); await client.flush();"
        "const none = await client.search('?!'); return {found, none, device: client.deviceId}",
        consent=True,
    )
    assert [item["item_id"] for item in answer["found"]["items"]] == ["i-2"]
    assert answer["none"]["note"]
    body = shop.gate.seen[0].body
    assert (body["query"], body["device_id"]) == ("i 2", answer["device"])
    (click,) = shop.gate.events()
    assert click["recommendation_id"] == answer["found"]["recommendation_id"]


def test_a_profile_crosses_for_the_device_alone(shop: Shop) -> None:
    """The server of this test knows no other domain, which its code says."""
    calls = "const calls = [client.releaseProfile('a/b'), client.receiveProfile('shop', 'token')];"
    codes = f"{calls} return Promise.all(calls.map((call) => call.catch((error) => error.code)))"
    assert shop.start(codes) == ["no_consent"] * 2
    assert shop.gate.seen == []
    assert shop.start(codes, consent=True) == ["not_found"] * 2
    device = shop.page.run("return client.deviceId")
    bodies = sorted((it.body for it in shop.gate.seen), key=len)
    assert bodies == [{"device_id": device}, {"device_id": device, "token": "token"}]


@pytest.mark.parametrize("signed", [True, False])
def test_a_dislike_and_a_hide_name_the_list_if_there_is_one(shop: Shop, signed: bool) -> None:
    of = ", list" if signed else ""
    got = shop.start(
        f"const list = await client.recommend({{count: 3}}); client.dislike('i-2'{of});"
        f"client.hide('i-1'{of}); await client.flush(); return list",
        consent=True,
    )
    ids = [item["item_id"] for item in got["items"]]
    events = shop.gate.events()
    assert [(it["type"], it["item_id"]) for it in events] == [("dislike", "i-2"), ("hide", "i-1")]
    given = got["recommendation_id"] if signed else None
    assert [it.get("recommendation_id") for it in events] == [given] * 2
    assert [it.get("properties") for it in events] == [
        {"position": ids.index(item)} if signed else None for item in ("i-2", "i-1")
    ]
    assert shop.page.run("return errors") == []


def test_lists_for_everybody_need_no_consent_and_name_nobody(shop: Shop) -> None:
    lists = shop.start(
        "const next = await client.next('i-1', {count: 2, category: 'none'});"
        "return [await client.latest({count: 3}), next, await client.similar('i-1'),"
        " await client.together('i-1'), await client.popular({category: undefined}),"
        " await client.trending({}, {timeoutMs: 9000})]"
    )
    assert [item["item_id"] for item in lists[0]["items"]] == ["i-3", "i-2", "i-1"]
    assert lists[0]["fallback"] is None
    assert lists[1]["items"] == []
    assert lists[1]["fallback"].startswith("0 of 2 items: ")
    assert [(each.method, each.path, each.query) for each in shop.gate.seen] == [
        ("GET", "/v1/items/i-1/next", {"count": ["2"], "category": ["none"]}),
        ("GET", "/v1/latest", {"count": ["3"]}),
        ("GET", "/v1/items/i-1/similar", {}),
        ("GET", "/v1/items/i-1/together", {}),
        ("GET", "/v1/popular", {}),
        ("GET", "/v1/trending", {}),
    ]
    assert {each.headers["authorization"] for each in shop.gate.seen} == {f"Bearer {shop.key}"}
    assert all("cookie" not in each.headers for each in shop.gate.seen)
    assert shop.stored() == {}


def test_a_list_of_an_odd_item_and_one_of_an_unknown(shop: Shop) -> None:
    key = {"x-api-key": shop.live.platform.keys.create(["ingest"])[0]}
    shop.live.http.put(
        "/v1/items", json=[{"item_id": "odd/id ?#\u58f6", "title": "i"}], headers=key
    )
    wait_until(
        lambda: shop.start("return client.similar('odd/id ?#\u58f6').then(() => 1, () => 0)") == 1
    )
    assert shop.gate.seen[-1].path == "/v1/items/odd%2Fid%20%3F%23%E5%A3%B6/similar"
    failed = "return client.together('nothing').catch((error) => [error.code, error.status])"
    assert shop.start(failed) == ["not_found", 404]
    failed = "return client.popular({count: 0}).catch((error) => error.code)"
    assert shop.start(failed) == "bad_query"
    shop.live.http.put(
        "/v1/items", json=[{"item_id": "odd/id ?#\u58f6", "available": False}], headers=key
    )


def test_a_busy_server_is_asked_for_a_list_again(shop: Shop) -> None:
    shop.gate.trouble = [(503, {}), (429, {})]
    assert shop.start("return (await client.latest({count: 1})).items.length") == 1
    assert len(shop.gate.seen) == 3
    shop.gate.trouble = [lambda: time.sleep(1)]
    late = "return client.latest({}, {timeoutMs: 100}).catch((error) => error.code)"
    assert shop.page.run(late) == "timeout"


def test_a_private_page_brings_its_history_along(shop: Shop) -> None:
    answer = shop.start(
        "return client.recommend({items: ['i-2', 'i-0'], count: 2}, {anonymous: true})"
    )
    assert len(answer["items"]) == 2
    assert shop.gate.seen[-1].body == {"count": 2, "items": ["i-2", "i-0"]}
    assert shop.stored() == {}


def test_a_busy_server_is_asked_again_within_the_time(shop: Shop) -> None:
    shop.gate.trouble = [(503, {}), (429, {})]
    shop.start(consent=True)
    assert shop.page.run("return (await client.recommend({count: 1})).items.length") == 1
    assert len(shop.gate.seen) == 3
    shop.gate.trouble = [(503, {"retry-after": "60"})]
    got = shop.page.run(
        "return client.recommend().catch((error) => [error.code, error.status, error.retryAfterMs])"
    )
    assert got == ["trouble", 503, 60_000]


@pytest.mark.parametrize(
    ("option", "code"),
    [
        ("timeoutMs: 100", "timeout"),
        ("signal: stop.signal", "aborted"),
        ("signal: AbortSignal.abort()", "aborted"),
    ],
)
def test_a_call_ends_when_it_should(shop: Shop, option: str, code: str) -> None:
    shop.gate.trouble = [lambda: time.sleep(1)]
    stop = "const stop = new AbortController(); setTimeout(() => stop.abort(), 50);"
    call = f"return client.recommend({{}}, {{{option}}}).catch((error) => error.code)"
    assert shop.start(f"{stop if 'stop' in option else ''} {call}", consent=True) == code


def test_an_abort_also_ends_a_pause(shop: Shop) -> None:
    shop.gate.trouble = [(503, {"retry-after": "2"})]
    got = shop.start(
        "const stop = new AbortController(); setTimeout(() => stop.abort(), 150);"
        "const began = performance.now();"
        "const code = await client.recommend({}, {signal: stop.signal}).catch((e) => e.code);"
        "return [code, performance.now() - began < 1900]",
        consent=True,
    )
    assert got == ["aborted", True]


@pytest.mark.parametrize("key", ["'wrong'", "undefined"])
def test_a_wrong_key_is_told_and_not_asked_with_again_at_once(shop: Shop, key: str) -> None:
    shop.start(
        f"client.close(); client = new tactful.Tactful({{url: '{shop.gate.url}', key: {key},"
        " consent: true, onError: (error) => errors.push(error.code)});"
        "Math.random = () => 0.5; client.track({type: 'view'}); await client.flush();"
        "await client.flush(); await client.flush()"
    )
    assert shop.page.run("return errors") == ["no_key"]
    assert shop.page.run("return client.recommend().catch((error) => error.code)") == "no_key"


def test_a_page_of_this_machine_uses_a_server_in_dev(shop: Shop, tmp_path: Path) -> None:
    """Without a key, and by an address without a scheme."""
    with Live(Platform.open(small_settings(tmp_path), build)) as dev:
        dev.http.put("/v1/items", json=[{"item_id": "tea"}])
        bare = dev.url.removeprefix("http://")
        for host in ("127.0.0.1", "localhost"):
            shop.page.open(f"{shop.pages.replace('127.0.0.1', host)}/dev")
            shop.page.wait_for(f"location.hostname === '{host}' && !!window.tactful")
            got = shop.start(
                "const list = await client.recommend({count: 1}, {timeoutMs: 30000});"
                "client.track({type: 'view', item_id: 'tea'}); await client.flush();"
                "return [list.items[0].item_id, client.deviceId]",
                url=bare,
                key=None,
                consent=True,
            )
            assert got[0] == "tea"
            assert dev.views(f"device:{got[1]}", dev.platform.position) == 1
            assert shop.page.run("return errors") == []


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("shop.invalid:8443/t/", "https://shop.invalid:8443/t/v1/recommend"),
        ("localhost.invalid", "https://localhost.invalid/v1/recommend"),
        ("[::1]:9", "http://[::1]:9/v1/recommend"),
        ("/tactful/", "/tactful/v1/recommend"),
        ("http://shop.invalid", "http://shop.invalid/v1/recommend"),
    ],
)
def test_an_address_without_a_scheme(shop: Shop, written: str, asked: str) -> None:
    got = shop.start(
        "const fetched = []; const real = window.fetch;"
        "window.fetch = (url) => { fetched.push(url); return Promise.reject(new Error('off')) };"
        "await client.recommend({}, {timeoutMs: 100}).catch(() => 0);"
        "window.fetch = real; return fetched[0]",
        url=written,
        consent=True,
    )
    assert got == asked


def test_a_page_of_another_origin_gets_nothing(shop: Shop) -> None:
    other = shop.pages.replace("127.0.0.1", "localhost")
    shop.page.open(f"{other}/")
    shop.page.wait_for("location.hostname === 'localhost' && window.tactful !== undefined")
    shop.start(consent=True)
    # A pause that is too long for a second try: the last one may end with its time instead.
    shop.page.run("Math.random = () => 1000")
    asked = "return client.recommend({}, {timeoutMs: 30000}).catch((error) => error.code)"
    assert shop.page.run(asked) == "network"
    assert shop.gate.seen == []


@pytest.mark.parametrize(
    "planted", ["not json", "null", '{"at": 0}', '{"at":0,"events":[null, 3, {}]}']
)
def test_what_others_left_in_the_storage_does_no_harm(shop: Shop, planted: str) -> None:
    shop.page.run(f"localStorage.setItem('tactful.queue.x', {json.dumps(planted)})")
    shop.page.run("localStorage.setItem('tactful.session', 'x'.repeat(10))")
    shop.start("client.track({type: 'view'}); await client.flush()", consent=True)
    assert len(shop.gate.events()) == 1
    assert "tactful.queue.x" not in shop.stored()


@pytest.mark.parametrize(
    "broken",
    [
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('closed') }})",
        "Storage.prototype.setItem = () => { throw new Error('full') }",
    ],
)
def test_a_page_without_storage_still_sends(shop: Shop, broken: str) -> None:
    shop.page.run(broken)
    tracks = "client.track({type: 'view'}); client.track({type: 'view'}); await client.flush();"
    device = shop.start(f"{tracks} return client.deviceId", consent=True)
    assert {event["device_id"] for event in shop.gate.events()} == {device}
    assert shop.views(device) == 2


def test_a_handler_that_throws_holds_nothing_up(shop: Shop) -> None:
    shop.page.run(
        f"window.client = new tactful.Tactful({{url: '{shop.gate.url}', key: '{shop.key}',"
        " consent: true, onError: () => { throw new Error('planted') }});"
        "client.track({type: 'nonsense'}); await client.flush();"
        "client.track({type: 'view'}); await client.flush()"
    )
    assert [event["type"] for event in shop.gate.events()] == ["nonsense", "view"]
