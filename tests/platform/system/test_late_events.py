"""Events that came too late are counted, and kept where the settings say so."""

from __future__ import annotations

import json
from dataclasses import replace

from click.testing import CliRunner
from tests.platform.support import Live, build, now_ms, view, wait_until

from tactful.cli.main import main
from tactful.config.settings import Settings
from tactful.server.platform import Platform

DAY = 86_400_000

FEATURES = """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 364d, slide: 28d}}
- {name: hourly, entity: user, event: view, aggregate: count, window: {size: 1h}}
- {name: daily, entity: user, event: view, aggregate: count, window: {size: 1d}}
"""


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(it) for it in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_late_events_are_kept_and_shown_by_feature(settings: Settings) -> None:
    settings.features.write_text(FEATURES)
    settings = replace(settings, engine=replace(settings.engine, keep_late=True))
    data = settings.storage.data
    evening = now_ms() // DAY * DAY - DAY // 12
    with Live(Platform.open(settings, build)) as live:
        for number, ago in enumerate((0, DAY // 2, 2 * DAY)):
            live.http.post("/v1/events", json=[view(number, timestamp=evening - ago)])
        wait_until(lambda: live.platform.engine.offset == 3)
        counted = live.http.get("/metrics").text
    assert 'tactful_engine_records_share{result="late"} 1.0' in counted, "3 of 6"
    code, out, _ = run("rules", "letters", "--late", "--json", "--data", data)
    letters = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert sorted(int(it["offset"]) for it in letters) == [1, 2, 2]
    _, out, _ = run("rules", "letters", "--late", "--data", data)
    assert "2  hourly: it came after the last window that it belongs to" in out
    _, out, err = run("rules", "letters", "--data", data)
    assert (out, err) == ("", "No dead letters.\n"), "they are no dead letters"


def test_otherwise_nothing_is_kept(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        live.http.post("/v1/events", json=[view(1)])
    code, _, err = run("rules", "letters", "--late", "--data", settings.storage.data)
    assert code == 1
    assert "engine.keep_late" in err
