"""The screen of ``tactful top``, driven by textual's pilot."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from tests.platform.support import Live, build, small_settings

from tactful.cli.main import main
from tactful.client import AsyncClient
from tactful.errors import ConnectionFailed
from tactful.schemas.operations import JobIndex, MetricsPage, SystemInfo
from tactful.server.platform import Platform
from tactful.util.jobs import tracked

pytest.importorskip("textual")

from textual.widgets import DataTable, Label, Sparkline, Static

from tactful.cli.monitoring.top_screen import State, Top, read_state

NOW = 1_772_366_400.0
LAG = "tactful_engine_lag"


def state(**changes: Any) -> State:
    ms = round(NOW * 1000)
    job = {"kind": "training", "state": "running", "started_at": ms - 90_000, "updated_at": ms}
    system = {
        **{"status": "ok", "version": "0.1.0", "started_at": ms - 7_500_000, "log": "embedded"},
        **{"lag": 3, "watermark_at": None, "memory_bytes": 2**28, "cpus": 2},
        **{"disk_free_bytes": 2**33, "disk_bytes": 2**35, "last_backup": None},
        "checks": [{"name": "space", "state": "warning", "finding": "[red]full[/red] [/]"}],
        **changes,
    }
    series = [{"name": LAG, "means": [1.0, None, 7.0], "highest": [1.0, None, 9.0]}]
    page = {"since": 0, "until": 9, "step_s": 10, "times": [1, 2, 3], "series": series}
    jobs = {"jobs": [{"id": "1", "stage": "replay", "progress": 0.25, **job}]}
    return State(
        msgspec.convert(system, SystemInfo),
        msgspec.convert(page, MetricsPage),
        msgspec.convert(jobs, JobIndex),
    )


class Readings:
    """Answers of a server, one after the other; the last one again and again."""

    def __init__(self, *answers: State | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self) -> State:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def screen(readings: Readings) -> Top:
    return Top(readings, url="http://shop", every=3600, now=lambda: NOW)


def said(app: Top, name: str) -> str:
    return str(app.query_one(f"#{name}", Static).render())


def cells(app: Top, table: str) -> list[list[str]]:
    found = app.query_one(f"#{table}", DataTable)
    return [[str(cell) for cell in found.get_row_at(row)] for row in range(found.row_count)]


@pytest.mark.slow
def test_the_screen_shows_machine_graphs_and_jobs() -> None:
    async def look() -> None:
        app = screen(Readings(state()))
        async with app.run_test(size=(120, 50)) as pilot:
            await pilot.pause()
            await app.workers.wait_for_complete()
            summary = said(app, "summary")
            for part in ("ok, version 0.1.0", "running for 2 h 5 min", "last backup: none"):
                assert part in summary
            assert app.query_one("#lag", Sparkline).data == [1.0, 0.0, 9.0]
            assert "Records not applied: 9" in str(app.query_one("#lag-label", Label).render())
            assert "–" in str(app.query_one("#took-label", Label).render())
            (job,) = cells(app, "jobs")
            assert job == ["training", "running", "replay", "25 %", "2026-03-01 11:58", "2 min"]
            assert cells(app, "checks") == [["space", "warning", "[red]full[/red] [/]"]]
            assert not app.query_one("#workers").display

    asyncio.run(look())


def test_a_server_that_is_down_is_told_and_asked_again() -> None:
    async def look() -> None:
        readings = Readings(ConnectionFailed("http://shop does not answer [x"), state())
        app = screen(readings)
        async with app.run_test() as pilot:
            await app.workers.wait_for_complete()
            assert "does not answer [x; trying again" in said(app, "failure")
            await pilot.press("r")
            await app.workers.wait_for_complete()
            assert said(app, "failure") == ""
            assert len(cells(app, "jobs")) == 1
            workers = [{"number": 0, "state": "down", "restarts": 2}]
            readings.answers = [state(workers=workers)]
            await pilot.press("r")
            await app.workers.wait_for_complete()
            assert cells(app, "workers") == [["0", "down", "2", "–", "–"]]
            assert len(cells(app, "jobs")) == 1, "rows are replaced"
            await pilot.press("q")
        assert readings.asked == 3

    asyncio.run(look())


def test_it_reads_a_real_server(tmp_path: Path) -> None:
    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        with tracked(live.platform.settings.storage.data, "backup"):
            pass

        async def look() -> State:
            async with AsyncClient(live.url) as client:
                return await read_state(client)

        found = asyncio.run(look())
    assert found.system.status == "ok"
    assert [job.kind for job in found.jobs.jobs] == ["backup"]


def test_without_the_extra_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tactful.cli.monitoring.top_screen")
    monkeypatch.setitem(sys.modules, "textual", None)
    monkeypatch.setitem(sys.modules, "textual.app", None)
    answer = CliRunner().invoke(main, ["top"])
    assert answer.exit_code == 1
    assert "pip install 'tactful[terminal]'" in answer.output
