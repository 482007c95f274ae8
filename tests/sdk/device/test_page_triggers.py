"""Triggers of a page: once, within limits, for the same people as on a server, and in one tab."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.federated.trigger_vectors import REFUSED
from tests.sdk.device.page_shop import Shop
from tests.sdk.device.test_page_intent import LATER_MS, install

from tactful_federated.device.triggers import Trigger

pytestmark = [pytest.mark.service("chromium", "web"), pytest.mark.timeout(600)]

DAY_MS = 86_400_000
NOON = 20_000 * DAY_MS + DAY_MS // 2
ALWAYS = {"most_per_day": 1_000, "gap_minutes": 0, "quiet": None}
TEA = {"name": "tea", "categories": ["tea"], "steps": 2, "most_per_day": 100}


def favouring(category: int) -> np.ndarray:
    """Weights of a model that always expects one category."""
    weights = np.zeros(168, np.float32)
    weights[-4 + category] = 8
    return weights


def fire(
    shop: Shop, triggers: Sequence[dict[str, Any]], tab: int = 0, **options: object
) -> list[str]:
    """Fire triggers; the window keeps what was acted on and told."""
    given = json.dumps({"limits": ALWAYS, "userId": "ada", **options})
    found = shop.tabs[tab].run(
        "window.acts ??= []; window.told ??= []; window.taken ??= true;"
        f"const fired = await device.fire({json.dumps(list(triggers))}, {{ ...{given},"
        " act: (foresight) => acts.push(foresight),"
        " tell: (event) => { if (window.taken) told.push(event); return window.taken; } });"
        "return fired.map(({ trigger }) => trigger);"
    )
    return list(found)


def at_noon(shop: Shop) -> dict[str, Any]:
    """Create a device whose model expects tea, category 2 of the catalogue, at noon in UTC."""
    options = shop.device(own="nothing")
    shop.page.run(
        f"window.shift = {NOON} - (Date.now() - window.shift);"
        "Date.prototype.getTimezoneOffset = () => 0;"
        "Date.prototype.getHours = Date.prototype.getUTCHours;"
        "window.acts = []; window.told = []; window.taken = true; await device.record('soap');"
    )
    install(shop, 1, weights=favouring(2))
    return options


def later(shop: Shop, minutes: float) -> None:
    shop.page.run(f"window.shift += {minutes * 60_000}")


def test_a_foresight_fires_once_until_it_came_or_was_wrong(shop: Shop) -> None:
    options = at_noon(shop)
    never = {"name": "never", "categories": ["drinks"], "threshold": 1}
    assert fire(shop, [TEA, never]) == ["tea"]
    assert shop.page.evaluate("[acts[0].category, acts[0].probability > 0.99]") == ["tea", True]
    shop.page.run(f"create({json.dumps(options)}); await device.setConsent(true)")
    assert fire(shop, [TEA, never]) == []  # a new object reads the state
    shop.page.run("await device.record('tea')")  # it came, in the visit that goes on
    assert fire(shop, [TEA]) == ["tea"]
    shop.page.run("await device.record('drinks'); await device.record('soap')")
    assert fire(shop, [TEA]) == []  # wrong, and as likely as before
    install(shop, 2, weights=favouring(0))
    assert fire(shop, [TEA]) == []  # low now: rearmed
    install(shop, 3, weights=favouring(2))
    assert fire(shop, [TEA]) == ["tea"]
    with pytest.raises(RuntimeError, match="two triggers have one name"):
        fire(shop, [TEA, TEA])


def test_caps_gaps_and_quiet_time_hold_when_the_clock_jumps(shop: Shop) -> None:
    at_noon(shop)
    limits = {"most_per_day": 2, "gap_minutes": 30, "quiet": [22, 8]}
    offers = [{"name": f"o{n}", "categories": ["tea"], "action": "offer"} for n in range(4)]
    loads = {"name": "load", "categories": ["tea"], "most_per_day": 1}
    assert fire(shop, [*offers, loads], limits=limits) == ["o0", "load"]
    assert fire(shop, [*offers, loads], limits=limits) == []
    later(shop, 31)
    assert fire(shop, [*offers, loads], limits=limits) == ["o1"]
    later(shop, 31)
    assert fire(shop, offers, limits=limits) == []  # two a day
    later(shop, 12 * 60 - 61)
    assert fire(shop, [*offers, loads], limits=limits) == []  # the next day, but at night
    shop.page.run("await device.record('tea')")
    assert fire(shop, [*offers, loads], limits=limits) == ["load"]  # nobody notices it
    later(shop, 8 * 60)
    assert fire(shop, offers, limits=limits) == ["o0"]
    later(shop, -3 * 24 * 60)  # a clock that goes back empties no count
    assert fire(shop, offers, limits=limits) == ["o1"]
    assert fire(shop, offers, limits=limits) == []


@pytest.mark.slow
def test_page_and_server_hold_out_the_same_people(shop: Shop) -> None:
    at_noon(shop)
    trigger = {**TEA, "action": "offer", "holdout": 0.5, "holdout_name": "coupon:茶"}
    same = Trigger("tea", ("tea",), holdout=0.5, holdout_name="coupon:茶")
    people = ["顧客", *map(str, range(7))]
    assert {same.holds_out(person) for person in people} == {True, False}
    for person in people:
        shop.page.run("window.acts = []; await device.record('tea')")
        assert fire(shop, [trigger], userId=person) == ["tea"]
        assert shop.page.evaluate("acts.length === 0") == same.holds_out(person)
    # Without an id the device draws, once.
    found = []
    for _ in range(3):
        shop.page.run("window.acts = []; await device.record('tea')")
        fire(shop, [trigger], userId=None)
        found.append(shop.page.evaluate("acts.length"))
    assert len({*found}) == 1


def test_a_server_learns_what_the_visitor_allows(shop: Shop) -> None:
    at_noon(shop)
    trigger = {**TEA, "action": "offer", "group": "drinks"}
    assert fire(shop, [trigger]) == ["tea"]
    assert shop.page.evaluate("told") == []  # nothing was allowed
    for level, names in [
        ("moment", {"probability"}),
        ("group", {"probability", "group"}),
        ("category", {"probability", "group", "trigger", "category", "steps"}),
    ]:
        shop.page.run(f"window.told = []; await device.allowTelling('{level}')")
        shop.page.run("await device.record('tea'); window.taken = false")
        assert fire(shop, [trigger]) == ["tea"]
        shop.page.run("window.taken = true")
        assert fire(shop, [trigger]) == []  # it waits for the server, and is sent once
        (event,) = shop.page.evaluate("told")
        assert set(event["properties"]) == names and event["type"] == "x.about_to_offer"
        assert fire(shop, []) == [] and shop.page.evaluate("told.length") == 1
    with pytest.raises(RuntimeError, match="telling is all"):
        shop.page.run("await device.allowTelling('all')")


def test_two_tabs_do_not_fire_twice(shop: Shop) -> None:
    options = at_noon(shop)
    second = shop.tabs[1]
    shift = shop.page.evaluate("window.shift")
    second.run(
        f"window.shift = {shift}; window.acts = []; create({json.dumps(options)});"
        "await device.setConsent(true)"
    )
    for tab in shop.tabs:  # both have computed before either has saved
        tab.run(
            f"window.firing = device.fire([{json.dumps(TEA)}], {{ userId: 'ada',"
            f" limits: {json.dumps(ALWAYS)}, act: (foresight) => acts.push(foresight) }})"
        )
    fired = [tab.run("return (await firing).length") for tab in shop.tabs]
    second.run("window.shift = 0")
    assert sorted(fired) == [0, 1]
    assert sum(tab.evaluate("acts.length") for tab in shop.tabs) == 1


@pytest.mark.slow
def test_triggers_end_with_the_consent(shop: Shop) -> None:
    at_noon(shop)
    shop.page.run("await device.allowTelling('category')")
    shop.page.run("window.realIdle = device.surroundings.idle")
    slow = "device.surroundings.idle = () => new Promise((end) => { window.release = end; });"
    ticking = "window.realPerformance = performance.now.bind(performance); let t = 0;"
    shop.page.run(
        f"{slow} {ticking} performance.now = () => (t += 10); window.release = undefined;"
        f"window.firing = device.fire([{json.dumps(TEA)}], {{ act: () => acts.push('late') }})"
    )
    shop.page.wait_for("!!window.release")
    shop.page.run(
        "await device.setConsent(false); performance.now = realPerformance;"
        "device.surroundings.idle = async () => {}; release()"
    )
    shop.page.run("device.surroundings.idle = realIdle")
    assert shop.page.run("return [(await firing).length, acts.length]") == [0, 0]
    shop.page.run("await device.setConsent(true); await device.record('soap')")
    install(shop, 1, weights=favouring(2))
    assert fire(shop, [TEA]) == ["tea"]  # nothing of before is left
    assert shop.page.evaluate("told") == []


@pytest.mark.slow
def test_the_file_of_a_shop_is_read_or_refused(shop: Shop) -> None:
    at_noon(shop)
    file = {"triggers": [{**TEA, "payload": {"page": "/tea"}}], "limits": {"quiet": None}}
    code = "const { triggers, limits } = device.readTriggers(%s); return [triggers, limits]"
    triggers, limits = shop.page.run(code % json.dumps(json.dumps(file)))
    assert limits == {"most_per_day": 3, "gap_minutes": 60, "quiet": None}
    assert triggers[0]["payload"] == {"page": "/tea"} and triggers[0]["threshold"] == 0.5
    assert fire(shop, triggers, limits=limits) == ["tea"]
    for text in REFUSED:
        with pytest.raises(RuntimeError, match="DeviceError"):
            shop.page.run(code % json.dumps(text))


@pytest.mark.slow
def test_days_look_ahead_by_the_pace_of_earlier_visits(shop: Shop) -> None:
    at_noon(shop)
    about = "return device.aboutTo(['tea'], 3, 1)"
    assert shop.page.run(about) == 0  # nothing is known of the times
    for _ in range(6):
        later(shop, LATER_MS / 60_000)
        shop.page.run("await device.record('soap'); await device.record('drinks')")
    later(shop, 3 * 24 * 60)
    shop.page.run("await device.record('soap')")
    often = shop.page.run(about)
    assert 0.5 < often < 1  # most of the visits had others within a day
    pace = {**TEA, "days": 1, "pace": [1.0], "threshold": often}
    assert fire(shop, [pace]) == []  # public histories without any visit within a day lower it
