"""Pages of a real browser complete secure sums, and keep consent, limits and ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.federated.wire_terms import AUTHORITY, INVITATION
from tests.platform.support import wait_until
from tests.sdk.shop import pages

from benchmarks.browser import Page, tabs
from tactful_federated.core.invitation import Invitation
from tactful_federated.device.batched_trainer import SimulatedPopulation
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import windows
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.collectors import SecureCollector
from tactful_federated.secagg.messages import encode, enrol_page
from tactful_federated.transport.page_server import PageApp, round_routes, serving_pages
from tactful_federated.transport.pages import PageTransport

pytestmark = [pytest.mark.service("chromium", "web"), pytest.mark.timeout(600)]

VISITS = [["tea", "soap", "drinks", "tea"], ["soap", "茶"], ["drinks", "tea", "soap", "soap", "茶"]]
WEIGHTS = np.random.default_rng(1).normal(0, 0.5, 168).astype(np.float32)


def invitation(devices: int) -> Invitation:
    plan = replace(
        INVITATION.plan, minimum_reports=3, report_goal=devices, participations=2, separation=2
    )
    return msgspec.structs.replace(INVITATION, plan=plan, difference=msgspec.UNSET)


@dataclass
class Fleet:
    pages: list[Page]
    transport: PageTransport
    invited: Invitation

    def collector(self) -> SecureCollector:
        return SecureCollector(
            self.transport, AUTHORITY.public_key(), run=self.invited.run, terms=self.invited
        )


@contextmanager
def fleet(
    chromium: Path, bundle: Path, profile: Path, count: int, invited: Invitation | None = None
) -> Iterator[Fleet]:
    """Pages of as many origins, so that each is a device of its own, with their server."""
    with ExitStack() as stack:
        origins = [stack.enter_context(pages(bundle)) for _ in range(count)]
        opened = stack.enter_context(tabs(chromium, profile, count))
        transport = PageTransport(AUTHORITY.public_key(), timeout=60)
        address = stack.enter_context(serving_pages(PageApp(round_routes(transport), origins), 0))
        invited = invited or invitation(count)
        for tab, origin in zip(opened, origins, strict=True):
            tab.open(f"{origin}/")
        for tab in opened:
            tab.wait_for("!!window.tactful")
            options = {
                "invitation": msgspec.json.encode(invited).decode(),
                "url": f"http://{address}",
            }
            tab.run(
                f"const options = {json.dumps(options)};"
                "const { PageDevice, watchPage } = await import('/device.js');"
                "window.errors = []; window.stages = [];"
                "options.onError = (error) => errors.push(error.message);"
                "options.onStage = (stage) => stages.push(stage);"
                "options.surroundings = { ...watchPage(), quiet: () => window.quiet !== false };"
                "options.enrol = (key) => new Promise((resolve) => {"
                " window.key = [...key]; window.enrolled = resolve; });"
                "window.create = () => new PageDevice(options); window.device = create();"
            )
        yield Fleet(opened, transport, invited)


def take_part(page: Page, visit: list[str]) -> int:
    """Consent, record a visit, start and enrol; return the number of the device."""
    page.run(
        "await device.setConsent(true);"
        f"for (const category of {json.dumps(visit)}) await device.record(category);"
        "device.start();"
    )
    page.wait_for("!!window.enrolled")
    enrolment = enrol_page(AUTHORITY, bytes(page.evaluate("window.key")))
    page.run(f"enrolled(Uint8Array.from({list(encode(enrolment))}))")
    return enrolment.device


def update_of(visit: list[str], invited: Invitation) -> Vector:
    """Return the update of a device in Python."""
    vocabulary, settings = invited.vocabulary, TrainerSettings(learning_rate=invited.learning_rate)
    sequence = vocabulary.sequence([visit])
    asked = windows(sequence, scored=settings.scored, context=settings.context)
    population = SimulatedPopulation(
        {0: asked}, vocabulary.size, embedding=4, hidden=3, settings=settings
    )
    ((_, update),) = population.train([0], WEIGHTS, 1)
    return update


@pytest.mark.slow
def test_pages_complete_rounds(web_client: Path, chromium_path: Path, tmp_path: Path) -> None:
    count = 3
    with fleet(chromium_path, web_client, tmp_path / "profile", count) as devices:
        visits = [VISITS[number % len(VISITS)] for number in range(count)]
        numbers = {take_part(*each) for each in zip(devices.pages, visits, strict=True)}
        wait_until(lambda: set(devices.transport.ids()) == numbers)
        collector, plan = devices.collector(), devices.invited.plan
        collected = collector.collect(sorted(numbers), WEIGHTS, plan, 1)
        assert [page.evaluate("errors") for page in devices.pages] == [[]] * count
        assert collected.reports == count
        expected = sum(plan.grid.encode(update_of(visit, devices.invited)) for visit in visits)
        # Differences of the updates by rounding, times 2^20 / 2 units a norm of 1.
        assert np.abs(collected.total - expected).max() <= 2 * count
        for page in devices.pages:
            page.wait_for("stages.length === 5")
        # The round is closed to these devices, and so is the next one by the plan's separation.
        for number in (1, 2):
            assert collector.collect(sorted(numbers), WEIGHTS, plan, number).reports == 0
        refused = devices.pages[0].evaluate("errors")
        assert refused == ["rounds of a device must be at least 2 apart by its plan"] * 2
        assert collector.collect(sorted(numbers), WEIGHTS, plan, 3).reports == count
        assert collector.collect(sorted(numbers), WEIGHTS, plan, 5).reports == 0
        assert "took part 2 times" in devices.pages[0].evaluate("errors.at(-1)")


@pytest.mark.slow
def test_nothing_is_stored_or_sent_without_consent(
    web_client: Path, chromium_path: Path, tmp_path: Path
) -> None:
    databases = "return (await indexedDB.databases()).map((each) => each.name)"
    count = "return (await device.visits()).length"
    with fleet(chromium_path, web_client, tmp_path / "profile", 1) as devices:
        (page,) = devices.pages
        page.run("await device.record('tea'); device.start(); await device.setConsent(false)")
        assert page.run(databases) == []
        assert not page.evaluate("!!window.enrolled")
        page.run("window.quiet = false")
        number = take_part(page, ["tea", "unknown"])
        assert page.run(databases) == ["tactful-device"]
        assert page.run("return device.visits()") == [["tea"]]
        assert devices.transport.ids() == []  # the visitor is busy
        page.run("window.quiet = true")
        wait_until(lambda: list(devices.transport.ids()) == [number])
        page.run("await device.setConsent(false); await device.record('soap')")
        assert page.run(f"await device.setConsent(true); {count}") == 0
        assert page.evaluate("errors") == []
