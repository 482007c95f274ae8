"""A shop of two tabs whose devices poll a server that a test plays."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from tests.federated.wire_terms import AUTHORITY
from tests.platform.support import wait_until
from tests.sdk.device.test_pages_train import WEIGHTS, invitation
from tests.sdk.shop import pages

from benchmarks.browser import Page, tabs
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.messages import (
    Session,
    encode,
    enrol_page,
    terms_digest,
    weights_digest,
)
from tactful_federated.transport.page_server import PageApp, round_routes, serving_pages
from tactful_federated.transport.pages import PageTransport

INVITED = invitation(3)
PREPARE = """
const { PageDevice, watchPage } = await import("/device.js");
const realNow = Date.now.bind(Date), realFetch = fetch.bind(window);
window.shift = 0; window.sent = 0; window.asked = 0;
Date.now = () => realNow() + shift;
window.fetch = (...given) => { sent += 1; return realFetch(...given); };
window.charging = true;
window.create = (more) => {
  window.device?.stop();
  window.errors = []; window.stages = []; window.sent = 0;
  window.device = new PageDevice({
    ...options,
    ...more,
    surroundings: {
      ...watchPage(),
      quiet: () => true,
      charging: async () => { asked += 1; return window.charging; },
      ...more?.surroundings,
    },
    onError: (error) => errors.push(error.message),
    onStage: (stage) => stages.push(stage),
    enrol: (key) => new Promise((resolve) => { window.key = [...key]; window.enrolled = resolve; }),
  });
};
"""


@dataclass
class Shop:
    """Two tabs of one origin, and the server that their devices poll."""

    tabs: list[Page]
    transport: PageTransport
    offset_s: list[float]
    databases: Iterator[int] = field(default_factory=count)

    @property
    def page(self) -> Page:
        return self.tabs[0]

    def device(self, **options: object) -> dict[str, Any]:
        """Create a device with a database of its own in the first tab; return its options."""
        options = {"database": f"device-{next(self.databases)}", **options}
        self.offset_s[0] = 0
        self.page.run(
            f"window.device?.stop(); window.shift = 0; window.charging = true;"
            f"create({json.dumps(options)}); await device.setConsent(true)"
        )
        return options

    def start(self) -> int:
        """Start the device and enrol it; return its number once it polls."""
        self.page.run("window.enrolled = undefined; device.start()")
        self.page.wait_for("!!window.enrolled")
        enrolment = enrol_page(AUTHORITY, bytes(self.page.evaluate("window.key")))
        self.page.run(f"enrolled(Uint8Array.from({list(encode(enrolment))}))")
        wait_until(lambda: enrolment.device in self.transport.ids())
        return enrolment.device

    def ask(self, device: int, stage: int, question: object, weights: Vector = WEIGHTS) -> Any:
        """Return the answer of a device, None if it leaves."""
        data = question if isinstance(question, bytes) else encode(question)
        return self.transport.exchange(stage, {device: data}, weights).get(device)


@contextmanager
def open_shop(bundle: Path, chromium: Path, profile: Path) -> Iterator[Shop]:
    """Two tabs of one origin with their server; devices are created by the tests."""
    offset_s = [0.0]
    with ExitStack() as stack:
        origin = stack.enter_context(pages(bundle))
        transport = PageTransport(
            AUTHORITY.public_key(), timeout=20, now=lambda: time.time() + offset_s[0]
        )
        app = PageApp(round_routes(transport), [origin])
        address = stack.enter_context(serving_pages(app, 0))
        opened = stack.enter_context(tabs(chromium, profile, 2))
        options = {
            "invitation": msgspec.json.encode(INVITED).decode(),
            "url": f"http://{address}",
        }
        for page in opened:
            page.open(f"{origin}/")
            page.wait_for("!!window.tactful")
            page.run(f"window.options = {json.dumps(options)}; {PREPARE}")
        yield Shop(opened, transport, offset_s)


def session(number: int, **changes: Any) -> Session:
    honest = Session(
        run=INVITED.run,
        round=number,
        nonce=number.to_bytes(32, "big"),
        size=WEIGHTS.size,
        weights=weights_digest(WEIGHTS),
        terms=terms_digest(INVITED),
    )
    return replace(honest, **changes)


def stored(page: Page, database: object, store: str) -> Any:
    """Return all values of a store, without the library."""
    return page.run(
        f"const opening = indexedDB.open({json.dumps(database)});"
        "const done = (request) => new Promise((resolve) => {"
        " request.onsuccess = () => resolve(request.result); });"
        "const opened = await done(opening);"
        f"const all = await done(opened.transaction('{store}').objectStore('{store}').getAll());"
        "opened.close(); return all;"
    )
