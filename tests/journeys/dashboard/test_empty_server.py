"""From an empty server to a trained model, by the steps that the dashboard shows."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tests.journeys import visits
from tests.journeys.dashboard.reader import Reader, dashboard
from tests.journeys.installation import Terminal

from benchmarks.browser import browser

pytestmark = [pytest.mark.slow, pytest.mark.service("chromium"), pytest.mark.timeout(400)]


def test_an_empty_server_gets_to_its_first_recommendation(
    terminal: Terminal, chromium_path: Path, tmp_path: Path
) -> None:
    _write_files(terminal.folder)
    with (
        terminal.serving() as shop,
        dashboard(terminal, shop.url) as address,
        browser(chromium_path, tmp_path / "profile") as page,
    ):
        reader = Reader(page, address)
        reader.open(title="Overview")
        reader.wait_for("First steps")
        commands = _commands(reader)
        assert len(commands) == 4 and all(shop.url in line for line in commands[:3])
        shop.run(commands[0])
        shop.run(commands[1])
        shop.applied()
        asked = shop.run(commands[2].replace("somebody", "visitor-1"))
        assert "tea-" in asked.out or "cups-" in asked.out
        shop.trained()
        reader.open(title="Overview")
        reader.wait_for("Trained until")
        reader.wait_for(str(len(visits.items())))
        assert not reader.says("First steps")
        assert page.complaints == []


def _commands(reader: Reader) -> list[str]:
    shown = "[...document.querySelectorAll('[data-testid=stCode] pre')]"
    reader.page.wait_for(f"{shown}.length > 3")
    return [str(line) for line in reader.page.evaluate(f"{shown}.map((it) => it.innerText.trim())")]


def _write_files(folder: Path) -> None:
    with (folder / "items.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "title", "category", "price"])
        for number, item in enumerate(visits.items()):
            rows.writerow([item, item.title(), visits.category(item), 5 + number])
    with (folder / "events.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["type", "timestamp", "user_id", "item_id", "session_id"])
        for row in visits.visits():
            visit = f"{row.visitor}-{row.visit}"
            time = row.at.isoformat()
            rows.writerow(["add_to_cart", time, f"visitor-{row.visitor}", row.item, visit])
