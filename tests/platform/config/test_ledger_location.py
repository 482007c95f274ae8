"""The ledger in a database: publication, messages, and no second one in a file."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from tests.platform.databases import SERVERS
from tests.platform.support import Live, build, small_settings, view, wait_until

from tactful.cli.main import main
from tactful.config.ledger_location import LEDGER, existing_ledger, ledger_location, named
from tactful.config.privacy import StatisticsSettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.erasure.personal_stores import LiveStores
from tactful.errors import BackupError, ConfigError
from tactful.maintenance.doctor import examine
from tactful.maintenance.restore import _ledger
from tactful.server.platform import Platform
from tactful.statistics.counter import CLOCK_EVENT
from tactful.statistics.service import PrivateStatistics, open_statistics
from tactful.subjects.trace_search import SearchResult
from tactful_privacy.errors import LedgerError
from tactful_privacy.ledger import schema as ledger_schema
from tactful_privacy.ledger.ledger import Ledger
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.engine.erasure import SubjectReferences
from tactful_streaming.errors import StateError

MINUTE = 60_000
NOON = 1_772_366_400_000
NOT_NOW = "the ledger cannot be read now"
VIEWS = dict(name="views", event="view", by="any", pane="1m", cap=5, epsilon="1/2")


def installed(folder: Path, *statistics: dict[str, object], variable: str = "") -> Settings:
    definitions = folder / "statistics.yaml"
    definitions.write_bytes(
        msgspec.json.encode({"daily_epsilon": "1", "statistics": statistics or (VIEWS,)})
    )
    return Settings(
        storage=StorageSettings(data=folder / "data"),
        statistics=StatisticsSettings(
            definitions=definitions, clock="replay", ledger_url_env=variable
        ),
    )


@pytest.fixture(params=SERVERS)
def in_database(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """An installation whose ledger is to be in a database, which is empty."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    monkeypatch.setenv("LEDGER_URL", url)
    engine = sa.create_engine(url)
    ledger_schema.tables.drop_all(engine)
    yield installed(tmp_path, variable="LEDGER_URL")
    ledger_schema.tables.drop_all(engine)
    engine.dispose()


def opened(settings: Settings) -> PrivateStatistics:
    statistics = open_statistics(settings)
    assert statistics is not None
    return statistics


def minutes_pass(statistics: PrivateStatistics, first: int, last: int) -> None:
    """Post a view; then the minutes up to the last but one are released."""
    for event in (
        Event(event_id="a", type=CLOCK_EVENT, timestamp=NOON + first * MINUTE, device_id="c"),
        Event(event_id="b", type="view", timestamp=NOON + first * MINUTE, user_id="ada"),
        Event(event_id="c", type=CLOCK_EVENT, timestamp=NOON + last * MINUTE, device_id="c"),
    ):
        statistics.counter.apply(event, None)
    statistics.counter.before_commit()


def run(settings: Settings, *arguments: str) -> Result:
    """A command, told of the settings by a file and the environment."""
    at = settings.storage.data.parent / "tactful.toml"
    at.write_text(
        f'[storage]\ndata = "{settings.storage.data}"\n'
        f'[statistics]\ndefinitions = "{settings.statistics.definitions}"\nclock = "replay"\n'
        f'ledger_url_env = "{settings.statistics.ledger_url_env}"\n'
    )
    return CliRunner().invoke(main, ["privacy", *arguments, "--config", str(at)])


def test_ledger_in_a_database(in_database: Settings, tmp_path: Path) -> None:
    statistics = opened(in_database)
    minutes_pass(statistics, 0, 4)
    first = statistics.page("views", None, 100, None, None)
    statistics.close()
    assert len(first.cells) == 3
    assert not (in_database.storage.data / LEDGER).exists()
    # Another process that lost its counters publishes what is stored, and draws nothing again.
    again = opened(in_database)
    minutes_pass(again, 0, 4)
    assert again.page("views", None, 100, None, None) == first
    again.close()
    told = run(in_database, "ledger", "--day", "2026-03-01", "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["spends"][0]["days"] == 1
    assert run(in_database, "release", "--out", str(tmp_path / "out")).exit_code == 0
    (file,) = (tmp_path / "out" / "views").iterdir()
    published = [json.loads(line)["value"] for line in file.read_text().splitlines()]
    assert published == [cell.value for cell in first.cells]
    checks = {check.name: check.state for check in examine(in_database)}
    assert checks["ledger"] == "ok"
    assert run(in_database, "retire", "views").exit_code == 0


def test_the_budget_in_a_database_holds_for_every_process(in_database: Settings) -> None:
    opened(in_database).close()
    more = {**VIEWS, "name": "more", "epsilon": "3/4"}
    with pytest.raises(ConfigError, match="5/4"):
        open_statistics(installed(in_database.storage.data.parent, more, variable="LEDGER_URL"))


def test_file_beside_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of them would draw the same panes."""
    monkeypatch.setenv("LEDGER_URL", "mysql+pymysql://tactful:hunter2@127.0.0.1:1/ledger")
    opened(installed(tmp_path)).close()
    both = installed(tmp_path, variable="LEDGER_URL")
    for ask in (ledger_location, existing_ledger, open_statistics):
        with pytest.raises(ConfigError, match="a second time") as caught:
            ask(both)
        assert "hunter2" not in str(caught.value)
    assert "a second time" in run(both, "ledger").output


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (None, "it is not set"),
        ("hunter2", "holds no address"),
        ("ledger.db", "holds no address"),
        ("sqlite:///ledger.db", "holds no address"),
        ("oracle://tactful:hunter2@db/ledger", "holds no address"),
    ],
)
def test_an_address_that_is_none_is_refused_without_saying_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, said: str
) -> None:
    if address is not None:
        monkeypatch.setenv("LEDGER_URL", address)
    with pytest.raises(ConfigError, match=said) as caught:
        open_statistics(installed(tmp_path, variable="LEDGER_URL"))
    assert "hunter2" not in str(caught.value)


def test_unreachable_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No message contains the password."""
    pytest.importorskip("pymysql", reason="needs the extra tactful[mysql]")
    monkeypatch.setenv("LEDGER_URL", "mysql+pymysql://tactful:hunter2@127.0.0.1:1/ledger")
    away = installed(tmp_path, variable="LEDGER_URL")
    with pytest.raises(ConfigError, match="nothing is released without it") as caught:
        open_statistics(away)
    assert "hunter2" not in str(caught.value)
    looked = next(check for check in examine(away) if check.name == "ledger")
    assert (looked.state, "hunter2" in looked.said) == ("failed", False)
    assert "hunter2" not in named(ledger_location(away))


def test_server_outlives_its_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its database restarts nothing is published, and then everything once."""
    base = small_settings(tmp_path)
    settings = replace(base, statistics=installed(tmp_path).statistics)
    statistics = opened(settings)
    platform = Platform.open(
        settings, build, consumers=statistics.counter.consumers(), statistics=statistics
    )
    real, refused = Ledger.release_many, threading.Event()
    away = True

    def release(self: Ledger, *what: Any, **how: Any) -> Any:
        if away:
            refused.set()
            raise LedgerError("the ledger cannot be used, and nothing is released without it")
        return real(self, *what, **how)

    monkeypatch.setattr(Ledger, "release_many", release)

    def unreadable(self: Ledger, *what: Any, **how: Any) -> Any:
        raise LedgerError("the ledger cannot be used")

    with Live(platform) as live:
        several = [
            view(1, "c", type=CLOCK_EVENT, timestamp=NOON),
            view(1, "ada", timestamp=NOON + 1),
            view(2, "c", type=CLOCK_EVENT, timestamp=NOON + 4 * MINUTE),
        ]
        assert live.http.post("/v1/events", json=several).json()["accepted"] == 3
        assert refused.wait(60)
        assert live.http.get("/v1/statistics/views").json()["cells"] == []
        more = [view(1, "bob", timestamp=NOON + 4 * MINUTE)]
        assert live.http.post("/v1/events", json=more).json()["accepted"] == 1
        away = False
        wait_until(lambda: len(statistics.page("views", None, 9, None, None).cells) == 3)
        assert live.http.get("/readyz").json()["status"] == "ok"
        with monkeypatch.context() as unread:
            for name in ("read", "last_pane", "answers"):
                unread.setattr(Ledger, name, unreadable)
            summed = f"statistics/views/sum?since={NOON}&until={NOON + MINUTE}"
            for path in ("statistics/views", summed, "privacy/ledger"):
                told = live.http.get(f"/v1/{path}")
                assert (told.status_code, told.json()["detail"]) == (503, NOT_NOW)
        first = live.http.get("/v1/statistics/views").json()["cells"]
    statistics.close()
    again = opened(settings)
    assert [cell.value for cell in again.page("views", None, 9, None, None).cells] == [
        cell["value"] for cell in first
    ]
    again.close()


def test_an_erasure_waits_for_a_ledger_that_is_away(tmp_path: Path) -> None:
    """The engine commits before it erases; an unknown error would end the job."""

    class Away:
        def between(self, work: Any) -> int:
            raise LedgerError("the ledger cannot be used, and nothing is released without it")

    nothing: Any = SimpleNamespace(forget=lambda *_, **__: 0, erase=lambda *_: 0)
    nothing.erasure = SimpleNamespace(delete=lambda *_, **__: 0)
    away: Any = Away()
    stores = LiveStores(
        small_settings(tmp_path),
        nothing,
        nothing,
        away,
        nullcontext(),
        consents=nothing,
        webhooks=None,
        drop_recommendations=lambda found: 0,
        rollouts=nothing,
        arms=nothing,
        profiles=nothing,
        bandits=nothing,
    )
    with pytest.raises(StateError, match="ledger"):
        stores.stores(SubjectReferences())[0].purge(SearchResult(SubjectIds(), frozenset(), 0))


def test_a_backup_with_a_ledger_beside_a_database(tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    staged.mkdir()
    settings = installed(tmp_path, variable="LEDGER_URL")
    assert _ledger(settings, staged) == "elsewhere"
    Ledger(staged / LEDGER, daily_epsilon=1).close()
    with pytest.raises(BackupError, match="another ledger"):
        _ledger(settings, staged)
    assert _ledger(replace(settings, statistics=StatisticsSettings()), staged) == "backup"
