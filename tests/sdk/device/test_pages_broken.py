"""Pages that break: jumping clocks, full or deleted storage, closed tabs, wrong models."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.federated.wire_terms import AUTHORITY
from tests.sdk.device.page_shop import INVITED, PREPARE, Shop, session, stored
from tests.sdk.device.test_page_intent import SIGNER, WIDTHS, install
from tests.sdk.device.test_pages_train import WEIGHTS

from tactful_federated.device.model_package import pack_model
from tactful_federated.secagg.messages import encode, enrol_page

pytestmark = [pytest.mark.service("chromium", "web"), pytest.mark.timeout(600)]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
VISITS = "return device.visits()"


@pytest.mark.slow
def test_a_clock_that_jumps_neither_glues_visits_nor_renews_a_day(shop: Shop) -> None:
    shop.device(own="nothing")
    shop.page.run(f"window.shift = {400 * DAY_MS}; await device.record('tea')")
    shop.page.run("window.shift = 0; await device.record('soap'); await device.record('drinks')")
    # The visit of the future is another one, and is over.
    assert shop.page.run(VISITS) == [["soap", "drinks"], ["tea"]]
    shop.page.run(f"window.shift = {-2 * HOUR_MS}; await device.record('茶')")
    assert shop.page.run(VISITS) == [["茶"], ["soap", "drinks"], ["tea"]]
    install(shop, 1)
    assert shop.page.run("return device.aboutTo(['tea'])") > 0
    assert shop.page.run("return device.aboutTo(['tea'], 3, 1)") == 0  # no time ahead is over
    # A day that was spent stays spent if the clock goes back over midnight.
    noon = "const noon = 12 * 3_600_000 - (Date.now() - shift) % 86_400_000;"
    shop.page.run(f"{noon} window.shift = noon;")
    spend = "(await device.opened())"
    shop.page.run(f"await {spend}.spend(20)")
    for hours, spent in [(-3, 20), (-13, 20), (0, 20), (24, 0), (-48, 0)]:
        shop.page.run(f"{noon} window.shift = noon + {hours} * 3_600_000")
        assert shop.page.run(f"return {spend}.spentToday()") == spent


def test_a_full_storage_ends_rounds_and_is_an_error_with_its_cause(shop: Shop) -> None:
    options = shop.device()
    device = shop.start()
    full = (
        "window.realPut = IDBObjectStore.prototype.put; IDBObjectStore.prototype.put ="
        " window.realAdd = IDBObjectStore.prototype.add;"
        "const no = () => { throw new DOMException('no', 'QuotaExceededError'); };"
        "IDBObjectStore.prototype.put = no; IDBObjectStore.prototype.add = no;"
    )
    free = "IDBObjectStore.prototype.put = realPut; IDBObjectStore.prototype.add = realAdd;"
    shop.page.run(full)
    assert shop.ask(device, 1, session(1)) is None  # a participation that cannot be stored
    shop.page.wait_for("errors.length === 2")
    assert all("its storage is full" in text for text in shop.page.evaluate("errors"))
    with pytest.raises(RuntimeError, match=r"DeviceError.*its storage is full"):
        shop.page.run("await device.record('tea')")
    shop.page.run(free)
    assert stored(shop.page, options["database"], "runs") == []
    shop.page.run("await device.record('tea'); device.start()")  # there is room again
    assert shop.ask(device, 1, session(1)) is not None
    shop.page.run("await device.setConsent(false)")


def test_a_storage_that_is_deleted_ends_rounds_and_is_made_again(shop: Shop) -> None:
    options = shop.device()
    device = shop.start()
    shop.page.run("await device.record('tea')")
    assert shop.ask(device, 1, session(1)) is not None
    delete = (
        f"const gone = indexedDB.deleteDatabase({json.dumps(options['database'])});"
        "await new Promise((resolve, reject) => {"
        " gone.onsuccess = resolve; gone.onerror = gone.onblocked = reject; });"
    )
    shop.tabs[1].run(delete)  # as a visitor who empties the storage of the site
    assert shop.ask(device, 2, b"no roster") is None
    shop.page.wait_for("errors.some((text) => text.includes('closed or deleted'))")
    assert shop.page.run(VISITS) == []
    shop.page.run("await device.record('soap')")
    assert shop.page.run(VISITS) == [["soap"]]
    shop.page.run(f"{delete} await device.setConsent(false)")
    names = "return (await indexedDB.databases()).map(({ name }) => name)"
    assert options["database"] not in shop.page.run(names)


def test_a_tab_that_was_frozen_stores_nothing_after_the_withdrawal(shop: Shop) -> None:
    options = shop.device()
    shop.page.run("await device.record('tea')")
    second = shop.tabs[1]
    second.run(
        f"window.shift = 0; create({json.dumps(options)}); await device.setConsent(true);"
        "await device.record('soap'); device.tabs.onmessage = null"
    )
    shop.page.run("await device.setConsent(false)")
    second.run("await device.record('drinks')")
    assert not second.evaluate("device.consented")
    assert second.run("return device.fire([{ name: 't', categories: ['tea'] }])") == []
    for name in ("visits", "settings"):
        assert stored(second, options["database"], name) == []
    # A new consent in the first tab is not one in the second.
    shop.page.run("await device.setConsent(true); await device.record('tea')")
    second.run("await device.record('drinks')")
    assert shop.page.run(VISITS) == [["tea"]]


@pytest.mark.slow
def test_a_tab_closed_in_a_round_leaves_it_and_the_other_tab_goes_on(shop: Shop) -> None:
    options = shop.device()
    device, (first, second) = shop.start(), shop.tabs
    second.run(
        f"window.shift = 0; create({json.dumps(options)}); await device.setConsent(true);"
        "device.start()"
    )
    assert shop.ask(device, 1, session(1)) is not None
    origin = first.evaluate("location.origin")
    given = first.evaluate("options")
    first.open("about:blank")
    first.wait_for("location.href === 'about:blank'")
    assert shop.ask(device, 2, b"roster") is None  # the keys of the session were in that tab
    second.wait_for("errors.length === 1")
    assert second.evaluate("errors.pop()") == "this device has no open session"
    assert shop.ask(device, 1, session(1)) is None  # and the round is closed to this device
    assert shop.ask(device, 1, session(3)) is not None
    first.open(f"{origin}/")
    first.wait_for("!!window.tactful")
    first.run(f"window.options = {json.dumps(given)}; {PREPARE}")
    # A page that is kept for the way back gives the lock away, and waits for it when it is shown.
    first.run(f"create({json.dumps(options)}); await device.setConsent(true); device.start()")
    second.run("window.dispatchEvent(new Event('pagehide'))")
    first.wait_for("window.sent > 0")
    second.run("window.sent = 0; window.dispatchEvent(new Event('pageshow'))")
    second.wait_for("!!device.working")
    assert second.evaluate("window.sent") == 0
    first.run("device.stop()")
    second.wait_for("window.sent > 0")
    second.run("await device.setConsent(false)")


def test_an_enrolment_that_comes_after_the_withdrawal_is_not_stored(shop: Shop) -> None:
    options = shop.device()
    shop.page.run("window.enrolled = undefined; device.start()")
    shop.page.wait_for("!!window.enrolled")
    enrolment = encode(enrol_page(AUTHORITY, bytes(shop.page.evaluate("window.key"))))
    shop.page.run("await device.setConsent(false); window.sent = 0")
    shop.page.run(f"enrolled(Uint8Array.from({list(enrolment)}))")
    assert stored(shop.page, options["database"], "settings") == []
    assert shop.page.evaluate("[window.sent, errors.length]") == [0, 0]


def test_a_private_window_without_stored_keys_takes_part_with_bytes(shop: Shop) -> None:
    options = shop.device()
    shop.page.run(
        "window.realPut = IDBObjectStore.prototype.put;"
        "IDBObjectStore.prototype.put = function (value, key) {"
        " if (value?.privateKey) throw new DOMException('no', 'DataCloneError');"
        " return realPut.call(this, value, key); };"
    )
    device = shop.start()
    shop.page.run("IDBObjectStore.prototype.put = realPut")
    assert shop.ask(device, 1, session(1)) is not None
    assert shop.page.evaluate("errors") == []
    shop.page.run(f"create({json.dumps(options)}); await device.setConsent(true); device.start()")
    assert shop.ask(device, 1, session(3)) is not None  # a new object has the same key


def test_packages_that_are_cut_changed_or_too_large_are_refused(shop: Shop) -> None:
    shop.device()
    install(shop, 1)
    right = pack_model(WEIGHTS, INVITED.vocabulary, 2, SIGNER, **WIDTHS)
    large = pack_model(np.zeros(90_000, np.float32)[:168], INVITED.vocabulary, 2, SIGNER, **WIDTHS)
    put = "await device.install(Uint8Array.from({}))"
    for package, reason in [
        (right[:-1], "not signed"),
        (right[:40], "not signed"),
        (b"", "not signed"),
        (right[:80] + bytes([right[80] ^ 1]) + right[81:], "not signed"),
        (right + bytes(5_000), "1696 at most"),
        (right + b"\0", "not signed"),
    ]:
        with pytest.raises(RuntimeError, match=reason):
            shop.page.run(put.format(list(package)))
    before = shop.page.run("return device.predict()")
    assert before and len(large) == len(right)
    shop.page.run(put.format(list(right)))
