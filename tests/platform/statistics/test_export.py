"""Published numbers as files and records: whole, complete in themselves, and nothing beside."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from tests.platform.support import Live, build, now_ms, small_settings, wait_until

from tactful.cli.main import main
from tactful.config.privacy import StatisticsSettings
from tactful.config.settings import Settings
from tactful.config.storage import LogSettings
from tactful.errors import ConfigError
from tactful.server.platform import Platform
from tactful.statistics import export as publication
from tactful.statistics.counter import CLOCK_EVENT
from tactful.statistics.export import publish, write_files, write_topic
from tactful.statistics.service import open_statistics, shown_before
from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.counting.released import read_released
from tactful_privacy.errors import LedgerError
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import Statistic

HOUR, DAY = 3_600_000, 86_400_000
KEYS = ("bread", "milk")
SECRET = b"a secret of tests only"
HOURS = Statistic("hours", KEYS, HOUR, 5, Fraction(1, 2))
TOTALS = Statistic("hours.total", KEYS, HOUR, 5, Fraction(1, 2), kind="running_totals")
FIELDS = {
    *("statistic", "key", "value", "low", "high", "confidence", "pane_start", "pane_end"),
    *("counted_from", "kind", "epsilon", "delta", "cap", "unit", "method"),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo leaves its data in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db", daily_epsilon=1)
    yield opened
    opened.close()


class Clock:
    """A publisher whose clock is moved by hand."""

    def __init__(self, ledger: Ledger) -> None:
        counts = BoundedCounts(HOURS, secret=SECRET, start=0)
        self.publisher = Publisher(counts, ledger, further=[TOTALS])

    def reach(self, hours: int) -> None:
        self.publisher.store(hours * HOUR)


def everything(statistic: Statistic) -> None:
    return None


def lines(directory: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted(directory.rglob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


# -- files -----------------------------------------------------------------------------------------


def test_files_hold_every_released_number_and_what_it_is(ledger: Ledger, tmp_path: Path) -> None:
    Clock(ledger).reach(50)
    count = write_files(ledger, [HOURS, TOTALS], tmp_path / "out", shown_before=everything)
    assert count == 6
    assert {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.jsonl")} == {
        Path(name, f"1970-01-0{day}.jsonl")
        for name in ("hours", "hours.total")
        for day in (1, 2, 3)
    }
    found = lines(tmp_path / "out")
    assert len(found) == 2 * 50 * 2
    assert all(it.keys() == FIELDS for it in found)
    for statistic in (HOURS, TOTALS):
        panes = read_released(ledger, statistic.name, limit=1_000).panes
        wanted = [
            (pane.start, pane.end, pane.counted_from, key, value, *pane.interval(key))
            for pane in panes
            for key, value in pane.values.items()
        ]
        mine = [it for it in found if it["statistic"] == statistic.name]
        names = ("pane_start", "pane_end", "counted_from", "key", "value", "low", "high")
        assert [tuple(it[name] for name in names) for it in mine] == wanted
        assert {it["kind"] for it in mine} == {statistic.kind}
        assert {(it["epsilon"], it["cap"], it["unit"], it["confidence"]) for it in mine} == {
            (0.5, 5, "one user, one UTC day", 0.95)
        }
        assert all("Laplace" in it["method"] and 0 < it["delta"] < 1e-12 for it in mine)


def test_leak_4_empty_panes_are_written_by_the_clock(ledger: Ledger, tmp_path: Path) -> None:
    """Nobody came at all, and yet each key of each hour is there once its time has come."""
    Clock(ledger).reach(30)
    out = tmp_path / "out"
    for now, panes in (
        (3 * HOUR + 75_000, 3),
        (4 * HOUR + 74_999, 3),
        (4 * HOUR + 75_000, 4),
        (27 * HOUR + 75_000, 27),
    ):
        write_files(ledger, [HOURS], out, shown_before=partial(shown_before, now=now))
        found = lines(out)
        assert {(it["pane_start"], it["key"]) for it in found} == {
            (hour * HOUR, key) for hour in range(panes) for key in KEYS
        }
        assert len(found) == panes * 2, "none is there twice"


def test_writing_again(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = Clock(ledger), tmp_path / "out"
    clock.reach(30)
    write_files(ledger, [HOURS], out, shown_before=everything)
    before = {path: path.read_bytes() for path in out.rglob("*.jsonl")}
    assert write_files(ledger, [HOURS], out, shown_before=everything) == 1, "only the newest day"
    assert {path: path.read_bytes() for path in out.rglob("*.jsonl")} == before
    clock.reach(80)
    assert write_files(ledger, [HOURS], out, shown_before=everything) == 3
    whole = tmp_path / "whole"
    monkeypatch.setattr("tactful.statistics.export._CELLS", 1)  # of large catalogues pane by pane
    write_files(ledger, [HOURS], whole, shown_before=everything)
    assert lines(out) == lines(whole)
    assert len(lines(out)) == 160


def test_a_file_is_whole(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = Clock(ledger), tmp_path / "out"
    clock.reach(5)
    write_files(ledger, [HOURS], out, shown_before=everything)
    before = lines(out)
    clock.reach(9)

    def full(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_files(ledger, [HOURS], out, shown_before=everything)
    assert lines(out) == before


# -- records ---------------------------------------------------------------------------------------


class Topic:
    """Records by key; may die after a commit, before it is noted."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.written = 0
        self.dies_after: int | None = None

    def write(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        for key, value in rows:
            assert self.records.setdefault(key, value) == value, "a number changed"
        self.written += len(rows)
        if self.dies_after is not None and self.written >= self.dies_after:
            raise ConnectionError("the process dies here")


def test_topic_records_come_at_least_once_unchanged(ledger: Ledger, tmp_path: Path) -> None:
    clock, topic, position = Clock(ledger), Topic(), tmp_path / "position.json"
    clock.reach(10)
    topic.dies_after = 9
    with pytest.raises(ConnectionError):
        write_topic(ledger, [HOURS], topic.write, position=position, shown_before=everything)
    topic.dies_after = None
    clock.reach(12)
    write_topic(ledger, [HOURS], topic.write, position=position, shown_before=everything)
    assert len(topic.records) == 24
    assert topic.written == 26, "the pane whose commit was not noted came again"
    again = write_topic(ledger, [HOURS], topic.write, position=position, shown_before=everything)
    assert again == 0
    cell = json.loads(topic.records[b"hours/3600000/milk"])
    assert cell.keys() == FIELDS
    assert (cell["pane_start"], cell["key"]) == (HOUR, "milk")


def test_a_damaged_position_is_reported(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "position.json").write_bytes(b"{")
    position = tmp_path / "position.json"
    with pytest.raises(OSError, match="delete it"):
        write_topic(ledger, [HOURS], Topic().write, position=position, shown_before=everything)


# -- the command -----------------------------------------------------------------------------------


def publishing(tmp_path: Path, definition: dict[str, Any], **changes: Any) -> Settings:
    """Settings with one statistic of views by category."""
    common = {"event": "view", "by": "category", "cap": 5}
    path = tmp_path / "statistics.yaml"
    content = {"daily_epsilon": "1", "statistics": [{**common, **definition}]}
    path.write_bytes(msgspec.json.encode(content))
    return replace(
        small_settings(tmp_path), statistics=StatisticsSettings(definitions=path, **changes)
    )


def installation(tmp_path: Path, **changes: Any) -> Settings:
    """Settings with a statistic of hours, and a ledger with two days of it."""
    settings = publishing(
        tmp_path,
        {"name": "hours", "keys": KEYS, "epsilon": "1/2", "running_total": "1/2"},
        **changes,
    )
    settings.storage.data.mkdir(parents=True)
    ledger = Ledger(settings.storage.data / "ledger.db", daily_epsilon=1)
    Clock(ledger).reach(48)
    ledger.close()
    return settings


def test_the_command_writes_what_the_settings_publish(tmp_path: Path) -> None:
    settings = installation(tmp_path)
    config = tmp_path / "tactful.toml"
    config.write_text(f'[statistics]\ndefinitions = "{settings.statistics.definitions}"\n')
    arguments = ["privacy", "release", "--config", config, "--data", settings.storage.data]
    arguments += ["--out", tmp_path / "out", "--json"]
    result = CliRunner().invoke(main, [str(it) for it in arguments])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == {"files": 4, "records": 0}
    assert len(lines(tmp_path / "out")) == 2 * 48 * 2


def test_the_wall_clock_holds_back_what_is_not_shown_yet(tmp_path: Path) -> None:
    settings = installation(tmp_path)
    done = publish(settings, tmp_path / "out", None, clock=lambda: 24 * HOUR)
    assert done.files == 2
    assert max(it["pane_end"] for it in lines(tmp_path / "out")) == 23 * HOUR


def test_what_cannot_be_published_is_said(tmp_path: Path) -> None:
    settings = installation(tmp_path, clock="replay")
    with pytest.raises(ConfigError, match=r"log\.kind"):
        publish(settings, None, "numbers")
    with pytest.raises(ConfigError, match="no statistics are published"):
        publish(replace(settings, statistics=StatisticsSettings()), tmp_path, None)
    (settings.storage.data / "ledger.db").unlink()
    with pytest.raises(ConfigError, match="no ledger"):
        publish(settings, tmp_path, None)
    refused = CliRunner().invoke(main, ["privacy", "release"])
    assert refused.exit_code == 2
    assert "--out" in refused.output


@pytest.mark.slow
def test_a_topic_of_kafka_holds_every_number(tmp_path: Path, kafka_servers: str) -> None:
    from tests.streaming.flink_cluster import make_topic

    from benchmarks.kills.topics import read_topic

    topic = f"statistics-{uuid.uuid4().hex}"
    make_topic(kafka_servers, topic)
    settings = replace(
        installation(tmp_path, clock="replay"),
        log=LogSettings(kind="kafka", brokers=kafka_servers, topic=topic),
    )
    first = publish(settings, None, topic)
    assert first.records == 2 * 48 * 2
    assert publish(settings, None, topic).records == 0
    found = [
        json.loads(value) for run in read_topic(kafka_servers, topic).values() for _, value in run
    ]
    assert all(it.keys() == FIELDS for it in found)
    assert len({(it["statistic"], it["pane_start"], it["key"]) for it in found}) == first.records


# -- nothing raw anywhere else ---------------------------------------------------------------------

MARKS = {
    what: f"zq{what}{uuid.uuid4().hex}" for what in ("user", "device", "session", "item", "word")
}


def marked(number: int, at: int, **changes: Any) -> dict[str, Any]:
    """An event with a mark in every field that says who or what."""
    return {
        "event_id": f"{MARKS['user']}-{number}",
        "type": "view",
        "timestamp": at,
        "user_id": MARKS["user"],
        "device_id": MARKS["device"],
        "session_id": MARKS["session"],
        "item_id": MARKS["item"],
        "properties": {"query": MARKS["word"], "category": MARKS["word"]},
        "context": {"page": MARKS["word"]},
        **changes,
    }


def marks_in(text: str) -> list[str]:
    return [what for what, mark in MARKS.items() if mark in text or mark[2:] in text]


@pytest.mark.slow
def test_leak_5_ids_and_counts_stay_in_their_places(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marks are planted, requests good and bad are made, then everything said is searched.

    Metrics, health, statistics, reports, models, the description of the API; answers to wrong
    requests, and to one at which the server itself fails with a mark in its hands; what looks into
    a process (there is none of that over HTTP); the dashboard's pages; logs at their most talkative
    with their tracebacks, which are all the traces there are; published files.
    """
    from tests.ui.conftest import PAGES, open_at
    from tests.ui.reading import charts, words

    caplog.set_level(logging.DEBUG)
    definition = {"name": "views", "keys": ["tea"], "pane": "1m", "epsilon": "1"}
    settings = publishing(tmp_path, definition, clock="replay")
    opened = open_statistics(settings)
    assert opened is not None
    platform = Platform.open(
        settings, build, consumers={"statistics": opened.counter}, statistics=opened
    )
    now = now_ms()
    said: dict[str, str] = {}
    with Live(platform) as live:

        def ask(method: str, where: str, **what: Any) -> None:
            answer = live.http.request(method, where, **what)
            said[f"{method} {where} {len(said)}"] = (
                f"{answer.status_code} {answer.headers} {answer.text}"
            )

        item = {"item_id": MARKS["item"], "title": MARKS["word"], "category": "tea"}
        assert live.http.put("/v1/items", json=[item]).status_code == 202
        clock = {"type": CLOCK_EVENT, "device_id": "c"}
        ticks = [{**clock, "event_id": f"t{n}", "timestamp": now + n * 60_000} for n in range(5)]
        sent = [ticks[0], *(marked(n, now + n) for n in range(40)), *ticks[1:]]
        assert live.http.post("/v1/events", json=sent).json()["rejected"] == []
        wait_until(lambda: bool(opened.page("views", None, 10, None, None).cells))
        # What is wrong with a request is said without what is in it.
        for wrong in (
            marked(100, now, type="no such type"),
            marked(101, now, timestamp="yesterday"),
            marked(102, now, properties={"query": [[MARKS["word"]]]}),
            marked(103, now, event_id=MARKS["user"] * 10),
        ):
            ask("POST", "/v1/events", json=[wrong])
        for text in (f'{{"user_id": "{MARKS["user"]}"', f'[{{"type": {MARKS["word"]}}}]'):
            ask("POST", "/v1/events", content=text)
        ask("PUT", "/v1/items", json=[{"item_id": MARKS["item"], "price": MARKS["word"]}])
        ask("PUT", "/v1/users", json=[{"user_id": MARKS["user"], "properties": MARKS["word"]}])
        ask("POST", "/v1/recommend", json={"user_id": MARKS["user"], "k": MARKS["word"]})

        def fails(*_: Any, **__: Any) -> Any:
            raise RuntimeError(f"of {MARKS['user']}: {MARKS['word']}")

        with monkeypatch.context() as planted:
            planted.setattr(platform.recommender, "recommend", fails)
            ask("POST", "/v1/recommend", json={"user_id": MARKS["user"]})
        assert any(text.startswith("500") for text in said.values()), "it failed"
        live.http.post("/v1/recommend", json={"user_id": MARKS["user"]})
        live.http.get(f"/v1/users/{MARKS['user']}/features")
        for where in (
            *("/metrics", "/healthz", "/readyz", "/openapi.json", "/v1/statistics"),
            *("/v1/statistics/views", "/v1/reports", "/v1/models", "/v1/models/log"),
            *("/v1/privacy/ledger", "/v1/statistics/unknown", "/v1/statistics/views?limit=x"),
            *("/v1/reports/unknown", "/v1/experiments", "/v1/experiments/unknown"),
            *("/v1/erasures/unknown", "/v1/explain/unknown", "/v1/users/unknown/features"),
            *("/v1/statistics/views/sum?since=0&until=1", "/docs", "/debug", "/debug/vars"),
        ):
            ask("GET", where)
        paths = live.http.get("/openapi.json").json()["paths"]
        # Google's own path, which checks a message and looks into nothing.
        own = [path for path in paths if path != "/v1/sources/ga4/debug/mp/collect"]
        assert not [path for path in own if "debug" in path or "trace" in path]
        for where in ("/v1/statistics", "/v1/reports", "/v1/models"):
            ask("POST", where, json={"user_id": MARKS["user"]})
        monkeypatch.setenv("TACTFUL_URL", live.url)
        for name in (*PAGES, "overview"):
            page = open_at(name)
            said[f"page {name}"] = f"{words(page)} {charts(page)} {page.exception} {page}"
        assert "The server is ready" in said["page overview"]
    opened.close()
    publish(settings, tmp_path / "out", None)
    for file in (tmp_path / "out").rglob("*"):
        said[str(file)] = file.read_text() if file.is_file() else ""
    assert lines(tmp_path / "out"), "there is something to search"
    for number, record in enumerate(caplog.records):
        if record.name.startswith(("httpx", "httpcore")):  # the test's own client
            continue
        said[f"log {number} of {record.name}"] = f"{record.getMessage()} {record.exc_text}"
    assert any("200" in text and "views" in text for text in said.values())
    leaks = {where: found for where, text in said.items() if (found := marks_in(text))}
    assert leaks == {}


def test_the_search_for_marks_finds_one() -> None:
    assert marks_in(f"GET /v1/users/{MARKS['user']}/features") == ["user"]
    assert marks_in(str({"error": MARKS["word"]})) == ["word"]


def test_a_lost_ledger_leaves_no_partial_file(tmp_path: Path) -> None:
    def lines() -> Iterator[bytes]:
        yield b"{}"
        raise LedgerError("the ledger cannot be used, and nothing is released without it")

    (tmp_path / "2026-03-01.jsonl").write_bytes(b"as it was\n")
    with pytest.raises(LedgerError):
        publication._replace(tmp_path / "2026-03-01.jsonl", lines())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [
        ("2026-03-01.jsonl", b"as it was\n")
    ]
