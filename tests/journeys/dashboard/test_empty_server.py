"""From an empty server to a trained model, by the steps that the dashboard shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.journeys import visits
from tests.journeys.dashboard.conftest import write_history
from tests.journeys.dashboard.reader import Reader
from tests.journeys.installation import Terminal
from tests.ui.dashboard_process import dashboard

from benchmarks.browser import browser

pytestmark = [pytest.mark.slow, pytest.mark.service("chromium"), pytest.mark.timeout(400)]


def test_an_empty_server_gets_to_its_first_recommendation(
    terminal: Terminal, chromium_path: Path, tmp_path: Path
) -> None:
    write_history(terminal.folder)
    with (
        terminal.serving() as shop,
        dashboard(shop.url, terminal.folder, environment=terminal.environment()) as address,
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
