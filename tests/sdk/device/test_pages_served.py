"""The documented way for pages: two commands, the shipped proxy, and headless pages behind it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.federated.fleet_support import nginx, tls
from tests.platform.support import wait_until
from tests.sdk.shop import pages

from benchmarks.browser import Page, tabs
from benchmarks.ports import await_port, free_port

pytestmark = [
    pytest.mark.service("chromium", "nginx", "web"),
    pytest.mark.slow,  # reason: a server with torch and ten renderers take 30 s of CPU
    pytest.mark.timeout(600),
]

PAGES = 8
TAKE_PART = """
document.cookie = "account=%s";
const { PageDevice, watchPage } = await import("/device.js");
window.errors = []; window.stages = [];
window.device = new PageDevice({
  invitation: await (await fetch("/invitation.json")).text(),
  url: location.origin,
  enrol: "/v1/device/enrol",
  surroundings: { ...watchPage(), quiet: () => true },
  onError: (error) => errors.push(error.message),
  onStage: (stage) => stages.push(stage),
});
await device.setConsent(true);
for (const category of ["milk", "bread"]) await device.record(category);
device.start();
"""


@contextmanager
def federated(log: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A command of `tactful federated`, until the end of the block."""
    command = [sys.executable, "-m", "tactful", "federated", *map(str, arguments)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def join(page: Page, address: str, account: str) -> None:
    page.open(address)
    page.wait_for("!!window.tactful")
    page.run(TAKE_PART % account)


def test_eight_pages_train_the_model_that_they_install(
    web_client: Path, chromium_path: Path, tmp_path: Path
) -> None:
    server, catalogue = tmp_path / "server", tmp_path / "catalogue.txt"
    catalogue.write_text("bread\ncheese\nmilk\n", "utf-8")
    ports = {name: free_port() for name in ("superlink", "pages", "enrol")}
    (tmp_path / "tls").mkdir()
    with ExitStack() as stack:
        shop = stack.enter_context(pages(web_client))
        own = {
            "http://127.0.0.1:9094": f"http://127.0.0.1:{ports['pages']}",
            "http://127.0.0.1:9095": f"http://127.0.0.1:{ports['enrol']}",
            "http://127.0.0.1:8080": shop,
            "/srv/intent/": f"{server}/",
            "listen 443 ssl;": "listen 127.0.0.1:PORT ssl;",
            "events {}": "user root; events {}",  # the directory of a test is not for everybody
        }
        certificates = tls(tmp_path / "tls")
        port = stack.enter_context(nginx(tmp_path / "nginx", certificates, "page-proxy.conf", own))
        origins = [f"https://p{number}.localhost:{port}" for number in range(PAGES + 2)]
        named = [option for origin in origins for option in ("--origin", origin)]
        serve = [
            *("serve", server, "--catalogue", catalogue, "--population", PAGES, "--rounds", 1),
            *("--report-goal", PAGES, "--minimum-reports", PAGES, "--over-selection", 1.0),
            *("--availability", 1.0, "--epsilon", 8, "--delta", 1e-3, "--deadline", 60),
            *(
                "--tier",
                "noise-in-sum",
                "--embedding",
                8,
                "--hidden",
                8,
                "--port",
                ports["superlink"],
            ),
            *("--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"),
            *("--page-port", ports["pages"], *named),
        ]
        leader = stack.enter_context(federated(tmp_path / "serve.log", *serve))
        wait_until(lambda: (server / "invitation.json").exists() or leader.poll() is not None)
        await_port(ports["pages"])
        enrol = ["enrol-pages", server, "--port", ports["enrol"], *named]
        stack.enter_context(federated(tmp_path / "enrol.log", *enrol))
        await_port(ports["enrol"])
        profile = tmp_path / "profile"
        opened = stack.enter_context(
            tabs(chromium_path, profile, PAGES + 2, "--ignore-certificate-errors")
        )
        for number, (page, origin) in enumerate(zip(opened, origins, strict=True)):
            join(page, origin, "" if number > PAGES else f"visitor-{number % PAGES}")
        *members, again, stranger = opened
        again.wait_for("errors.length > 0")
        stranger.wait_for("errors.length > 0")
        assert "another device of this account" in again.evaluate("errors[0]")
        assert "log in" in stranger.evaluate("errors[0]")
        assert leader.wait(240) == 0, (tmp_path / "serve.log").read_text()[-3000:]
        for page in members:  # the run is over, so its server is away
            assert all(
                error.startswith("the server answered 50") for error in page.evaluate("errors")
            )
        assert [page.evaluate("stages") for page in members] == [[1, 2, 3, 4, 5]] * PAGES
        assert json.loads((server / "live.json").read_text())["releases"] == 1
        first = members[0]
        intent = first.run(
            "const answer = await fetch('/intent-model');"
            "await device.install(new Uint8Array(await answer.arrayBuffer()));"
            "return device.intent(3);"
        )
        assert max(intent.values()) == 1.0 and set(intent) <= {"bread", "cheese", "milk"}
