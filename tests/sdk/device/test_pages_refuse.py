"""A page against servers that lie, wrong clocks, spent budgets, second tabs and refused storage."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from tests.federated.wire_terms import AUTHORITY
from tests.sdk.device.page_shop import INVITED, Shop, session, stored
from tests.sdk.device.test_pages_train import WEIGHTS

from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.client import SecureSumDevice
from tactful_federated.secagg.messages import (
    Advert,
    Roster,
    Session,
    decode,
    encode,
    enrol_page,
    terms_digest,
    weights_digest,
)

pytestmark = [pytest.mark.service("chromium", "web"), pytest.mark.timeout(600)]

DAY_MS = 86_400_000


def member(of: Session) -> SecureSumDevice:
    identity = Ed25519PrivateKey.generate()
    enrolment = enrol_page(AUTHORITY, identity.public_key().public_bytes_raw())
    return SecureSumDevice(of, enrolment, identity, AUTHORITY.public_key(), claim=lambda _: None)


def forged(advert: Advert) -> Advert:
    return replace(advert, signature=bytes(64))


def test_lies_of_a_server_are_refused_without_a_participation(shop: Shop) -> None:
    options = shop.device()
    device, unfit = shop.start(), np.full_like(WEIGHTS, np.nan)
    other = terms_digest(replace(INVITED, learning_rate=9.0))
    lies: list[tuple[int, object, Vector, str]] = [
        (1, b"\xc1", WEIGHTS, "message"),
        (1, session(1, run="another"), WEIGHTS, "not for the run"),
        (1, session(1, size=12), WEIGHTS, "not for the run"),
        (1, session(1), WEIGHTS[:12], "not for the run"),
        (1, session(1, terms=other), WEIGHTS, "another plan or other settings"),
        (1, session(1, terms=b"", weights=b""), WEIGHTS, "another plan or other settings"),
        (1, session(1), WEIGHTS + 1, "not those that the session names"),
        (1, session(1, weights=weights_digest(unfit)), unfit, "not finite"),
        (3, b"\x90", WEIGHTS, "no open session"),
    ]
    for stage, question, weights, reason in lies:
        assert shop.ask(device, stage, question, weights) is None
        assert reason in shop.page.evaluate("errors.pop() ?? 'no error'")
    rosters: list[tuple[Callable[[Advert, list[Advert]], list[Advert]], str]] = [
        (lambda own, others: [own, others[0]], "needs 3 devices"),
        (lambda own, others: [own, others[0], forged(others[1])], "signature"),
        (lambda own, others: others, "does not list this device"),
    ]
    for number, (spoilt, reason) in zip((1, 3, 5), rosters, strict=True):
        of = session(number)
        own = decode(shop.ask(device, 1, of), Advert)
        others = [decode(member(of).advertise(), Advert) for _ in range(3)]
        adverts = sorted(spoilt(own, others), key=lambda each: each.enrolment.device)
        for expected in (reason, "no open session"):  # the first refusal ends the session
            assert shop.ask(device, 2, Roster(adverts)) is None
            assert expected in shop.page.evaluate("errors.pop() ?? 'no error'")
    assert stored(shop.page, options["database"], "runs") == [{"times": 0, "latest": 5}]
    assert shop.ask(device, 1, session(5)) is None  # a nonce is joined once
    assert "took part in that session" in shop.page.evaluate("errors.pop()")


def test_a_wrong_clock_is_corrected_within_a_day(shop: Shop) -> None:
    for hours, corrected in [(-20, True), (3, True), (30, False)]:
        shop.device()
        shop.page.run(f"window.shift = {hours * 3_600_000}")
        if corrected:
            assert shop.ask(shop.start(), 1, session(1)) is not None
            assert shop.page.evaluate("errors") == []
            continue
        shop.page.run("window.enrolled = undefined; device.start()")
        shop.page.wait_for("!!window.enrolled")
        enrolment = encode(enrol_page(AUTHORITY, bytes(shop.page.evaluate("window.key"))))
        shop.page.run(f"enrolled(Uint8Array.from({list(enrolment)}))")
        shop.page.wait_for("errors.length > 0")
        assert "more than a day off" in shop.page.evaluate("errors[0]")


@pytest.mark.slow
def test_a_spent_day_ends_rounds_until_the_next_one_or_a_charger(shop: Shop) -> None:
    shop.device(secondsPerDay=0.01)
    shop.page.run("window.charging = undefined; await device.record('tea')")
    slow = "window.realPerformance = performance.now.bind(performance); let t = 0;"
    shop.page.run(f"{slow} performance.now = () => (t += 10)")  # each piece of work takes 10 ms
    device = shop.start()
    of = session(1)
    assert shop.ask(device, 1, of) is not None
    # The round that began is finished, though the day is spent.
    assert shop.ask(device, 2, b"no roster") is None
    shop.page.run("window.sent = window.asked = 0")
    shop.page.wait_for("window.asked >= 2")
    assert shop.page.evaluate("window.sent") == 0
    shop.page.run("window.charging = true")
    shop.page.wait_for("window.sent > 0")
    shop.page.run("window.charging = undefined")
    assert shop.ask(device, 2, b"no roster") is None  # ends the poll that waits
    next_day = f"window.shift = {DAY_MS} - realDay; window.sent = window.asked = 0"
    shop.page.run(f"const realDay = Date.now() % {DAY_MS}; {next_day}")
    shop.offset_s[0] = shop.page.evaluate("window.shift") / 1000
    shop.page.wait_for("window.sent > 0")
    shop.page.run("performance.now = realPerformance")


@pytest.mark.slow
def test_nothing_is_sent_once_consent_was_withdrawn_in_a_round(shop: Shop) -> None:
    options = shop.device()
    device = shop.start()
    assert shop.ask(device, 1, session(1)) is not None
    shop.page.run("await device.setConsent(false); window.sent = 0")
    question = {device: b"roster"}
    with ThreadPoolExecutor(1) as pool:
        shop.transport._timeout, before = 0.5, shop.transport._timeout
        assert pool.submit(shop.transport.exchange, 2, question, WEIGHTS).result() == {}
        shop.transport._timeout = before
    assert shop.page.evaluate("window.sent") == 0
    assert stored(shop.page, options["database"], "visits") == []
    # Also while it trains: the result of the training is not sent.
    options = shop.device()
    held = (
        "device.surroundings.idle = () => new Promise((resolve) => { window.release = resolve; });"
    )
    ticking = "window.realPerformance = performance.now.bind(performance); let t = 0;"
    shop.page.run(f"{held} {ticking} performance.now = () => (t += 10); await device.record('tea')")
    shop.page.run("await device.record('soap'); window.release = undefined")
    device = shop.start()
    with ThreadPoolExecutor(1) as pool:
        shop.transport._timeout = 3
        answer = pool.submit(shop.ask, device, 1, session(1))
        shop.page.wait_for("!!window.release")
        shop.page.run("await device.setConsent(false); window.sent = 0; release()")
        assert answer.result() is None
        shop.transport._timeout = before
    assert shop.page.evaluate("[window.sent, errors.length]") == [0, 0]
    assert stored(shop.page, options["database"], "settings") == []
    shop.page.run("performance.now = realPerformance")


def test_two_tabs_are_one_device_and_withdraw_together(shop: Shop) -> None:
    options = shop.device()
    device, second = shop.start(), shop.tabs[1]
    second.run(f"create({json.dumps(options)}); await device.setConsent(true); device.start()")
    assert shop.ask(device, 1, session(1)) is not None
    assert second.evaluate("window.sent") == 0  # the first tab holds the lock
    shop.page.run("device.stop()")
    second.wait_for("window.sent > 0")
    assert shop.ask(device, 1, session(3)) is not None
    second.wait_for("stages.join() === '1'")
    assert shop.ask(device, 1, session(1)) is None  # the ledger is that of both
    shop.page.run("await device.setConsent(false)")
    second.wait_for("!device.consented")
    second.run("window.sent = 0; await device.record('tea')")
    assert stored(second, options["database"], "visits") == []
    assert second.evaluate("window.sent") == 0


def test_history_is_pruned_by_age_and_number(shop: Shop) -> None:
    options = shop.device()
    shop.page.run("await device.record('tea'); await device.record('soap')")
    shop.page.run(f"window.shift = {31 * 60_000}; await device.record('tea')")
    assert shop.page.run("return device.visits()") == [["tea", "soap"], ["tea"]]
    shop.page.run(f"window.shift = {365 * DAY_MS + 60_000}; await device.record('soap')")
    assert shop.page.run("return device.visits()") == [["tea"], ["soap"]]
    visit = "{ at: Date.now(), last: Date.now() - 3_600_000, categories: ['drinks'] }"
    shop.page.run(
        f"const opening = indexedDB.open({json.dumps(options['database'])});"
        "await new Promise((resolve) => { opening.onsuccess = resolve; });"
        "const write = opening.result.transaction('visits', 'readwrite');"
        f"for (let i = 0; i < 1999; i++) write.objectStore('visits').add({visit});"
        "await new Promise((resolve) => { write.oncomplete = resolve; }); opening.result.close();"
        "await device.record('tea');"
    )
    visits = shop.page.run("return device.visits()")
    assert len(visits) == 2000 and [visits[0], visits[-1]] == [["drinks"], ["tea"]]


def test_refused_storage_is_an_error_with_its_cause(shop: Shop) -> None:
    shop.page.run("window.realOpen = IDBFactory.prototype.open")
    for failure in (
        "throw new DOMException('no', 'SecurityError')",
        "const failing = {}; queueMicrotask(() => { failing.error ="
        " new DOMException('no', 'InvalidStateError'); failing.onerror(); }); return failing",
    ):
        shop.page.run(f"IDBFactory.prototype.open = () => {{ {failure} }}")
        shop.device()
        shop.page.run("device.start()")
        shop.page.wait_for("errors.length > 0")
        assert "refuses to store data of this site" in shop.page.evaluate("errors[0]")
        for call in ("device.record('tea')", "device.predict()", "device.setConsent(false)"):
            with pytest.raises(RuntimeError, match="refuses to store data"):
                shop.page.run(f"await {call}")
        assert not shop.page.evaluate("device.consented")
    shop.page.run("IDBFactory.prototype.open = realOpen")
