"""Time for which a reader waits for a page of the dashboard.

A server with ten rollouts and more than a thousand released values, the dashboard as `tactful
dashboard` starts it, and a headless Chromium. A page is there once its title and everything below
it is drawn, and nothing is greyed out as old.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from benchmarks.browser import Page, browser
from benchmarks.figures import Figure
from benchmarks.ports import free_port
from tactful.client import Client
from tactful.errors import ClientError

PAGE_FIGURES = ("dashboard_first_load_s", "dashboard_page_s", "dashboard_slowest_page_s")

_PATIENCE_S = 120.0
_DAYS, _CATEGORIES, _PEOPLE = 30, 40, 200
_DAY_MS = 86_400_000
_RUNS, _QUICK_RUNS = 5, 2
_SETTINGS = """
[statistics]
definitions = "statistics.yaml"
clock = "replay"
"""
_STATISTICS = """
daily_epsilon: "1"
statistics:
  - name: views.daily
    event: view
    by: category
    keys: [{keys}]
    pane: 1d
    cap: 3
    epsilon: "1"
"""
_DRAWN = """
    [...document.querySelectorAll('h1')].length > 0
    && !document.querySelector('[data-stale=true], [data-testid=stSkeleton]')
    && !document.querySelector('[data-testid=stStatusWidget]')
"""


def dashboard_pages(scratch: Path, *, quick: bool) -> list[Figure]:
    """Measure the first load, and every page with what the browser keeps."""
    chromium = os.environ.get("TACTFUL_TEST_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise FileNotFoundError("no Chromium here: set TACTFUL_TEST_CHROMIUM")
    scratch.mkdir(parents=True, exist_ok=True)
    with (
        _server(scratch) as url,
        _dashboard(scratch, url) as address,
        browser(chromium, scratch / "profile") as page,
    ):
        first = _seconds(page, address)
        links = page.evaluate(
            "[...document.querySelectorAll('[data-testid=stSidebarNavLink]')].map((it) => it.href)"
        )
        waits: dict[str, list[float]] = {str(link): [] for link in links}
        for _ in tqdm(range(_QUICK_RUNS if quick else _RUNS), desc="pages", unit="round"):
            for link, seconds in waits.items():
                seconds.append(_seconds(page, link))
    medians = {link.rpartition("/")[2]: statistics.median(each) for link, each in waits.items()}
    every = [wait for seconds in waits.values() for wait in seconds]
    slowest = max(medians, key=medians.__getitem__)
    note = f"{len(waits)} pages; 10 rollouts, {_DAYS * _CATEGORIES:,} released values"
    return [
        Figure(PAGE_FIGURES[0], round(first, 2), "s", runs=1, note="an empty browser"),
        Figure(
            PAGE_FIGURES[1],
            round(statistics.median(every), 2),
            "s",
            round(min(every), 2),
            round(max(every), 2),
            len(every),
            f"navigation to drawn, warm cache; {note}",
        ),
        Figure(
            PAGE_FIGURES[2],
            round(medians[slowest], 2),
            "s",
            runs=len(waits[next(iter(waits))]),
            note=f"it is {slowest or 'overview'}; floor 2",
        ),
    ]


def _seconds(page: Page, address: str) -> float:
    """Return the seconds until a page is drawn and stays so for a moment."""
    started = time.perf_counter()
    page.open(address)
    page.wait_for(f"location.href.startsWith({address!r})")
    still = drawn = 0.0
    while time.perf_counter() - started < _PATIENCE_S:
        if page.evaluate(_DRAWN):
            drawn = drawn or time.perf_counter()
            still = time.perf_counter() - drawn
            if still > 0.5:
                return drawn - started
        else:
            drawn = 0.0
        time.sleep(0.02)
    raise TimeoutError(f"{address} was not drawn in {_PATIENCE_S:.0f} s: {page.text()[:300]}")


@contextmanager
def _server(scratch: Path) -> Iterator[str]:
    keys = [f"c{number}" for number in range(_CATEGORIES)]
    (scratch / "tactful.toml").write_text(_SETTINGS)
    (scratch / "statistics.yaml").write_text(_STATISTICS.format(keys=", ".join(keys)))
    url = f"http://127.0.0.1:{free_port()}"
    command = [_tactful(), "serve", "--dev", "--config"]
    command += ["tactful.toml", "--port", url.rpartition(":")[2]]
    with _process(command, scratch, {}) as process, Client(url) as client:
        _wait(lambda: client.health().status == "ok", process)
        _fill(client, keys)
        yield url


def _fill(client: Client, keys: list[str]) -> None:
    """Send a month of views, and define ten rollouts."""
    client.items({"item_id": f"i-{key}", "title": key, "category": key} for key in keys)
    end = time.time_ns() // 1_000_000 // _DAY_MS * _DAY_MS
    for day in tqdm(range(_DAYS), desc="events", unit="day"):
        begin = end - (_DAYS - day) * _DAY_MS
        client.events(
            {
                "event_id": f"{day}-{person}-{key}",
                "type": "view",
                "timestamp": begin + number * 60_000 + person,
                "user_id": f"u-{person}",
                "item_id": f"i-{key}",
                "properties": {"category": key},
            }
            for number, key in enumerate(keys)
            for person in range(number, _PEOPLE, _CATEGORIES)
        )
    for number in range(10):
        client.define_rollout(
            {"key": f"change-{number}", "change": {"objective": {"relevance": 1, "price": 0.1}}},
            people_per_day=200_000,
            rate=0.12,
        )


@contextmanager
def _dashboard(scratch: Path, url: str) -> Iterator[str]:
    port = free_port()
    command = [_tactful(), "dashboard", "--url", url, "--port"]
    more = {"STREAMLIT_SERVER_HEADLESS": "true"}
    with _process([*command, str(port)], scratch, more) as process:
        address = f"http://127.0.0.1:{port}"
        health = f"{address}/_stcore/health"
        _wait(lambda: httpx.get(health, trust_env=False).is_success, process)
        yield address


@contextmanager
def _process(
    command: list[str], folder: Path, more: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{command[1]}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **more}
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _tactful() -> str:
    return str(Path(sys.executable).with_name("tactful"))


def _wait(holds: Any, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"a process ended at once with status {process.returncode}")
        try:
            if holds():
                return
        except (httpx.TransportError, ClientError):
            pass
        time.sleep(0.1)
    raise TimeoutError("a process does not answer")
