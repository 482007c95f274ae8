"""Every shell and Python block of the README, the tutorials and the how-tos runs as it stands."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.documents.markdown_script import Step, steps, substituted
from tests.documents.session import ROOT, Session
from tests.streaming.flink_cluster import FlinkProcesses
from tests.streaming.redis_server import RedisServer

from benchmarks.ports import free_port

DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
]

MOST_NOT_RUN = 37
"""Blocks in all documents that may be left out."""


FIXTURES = (
    ("shop_with_history", "SHOP", "shop"),
    ("page_shows", "CHROMIUM", "chromium_path"),
    ("scripts/web", "WEB", "web_client"),
    ("--output entities", "TACTFUL_FLINK_HOME", "flink_home"),
)
"""Words of a document, and the fixture that it then needs as an environment variable."""


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the data directory of a shop that has a history and a model."""
    folder = tmp_path_factory.mktemp("shop")
    session = Session(folder, {})
    commands = (
        f"python {ROOT}/tests/documents/history.py .",
        "tactful serve --dev",
        "tactful import items.ndjson",
        "tactful import events.ndjson",
        "tactful train --promote --lists 1000",
        "ended serve",
    )
    assert session.run([Step("sh", command, 0) for command in commands]) == ""
    return session.checkout


class Services(dict[str, str]):
    """Addresses by name; each service is started when its address is first needed."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        super().__init__()
        self._request = request
        self._folder = folder

    def __missing__(self, name: str) -> str:
        self[name] = getattr(self, f"_{name}")()
        return self[name]

    def _name(self) -> str:
        return uuid.uuid4().hex[:12]

    def _kafka(self) -> str:
        return str(self._request.getfixturevalue("kafka_servers"))

    def _redis(self) -> str:
        self._folder.joinpath("redis").mkdir()
        server = RedisServer(self._folder / "redis")
        self._request.addfinalizer(server.kill)
        return server.url

    def _flink(self) -> str:
        home = self._request.getfixturevalue("flink_home")
        processes = FlinkProcesses(home, self._folder)
        self._request.addfinalizer(processes.stop)
        processes.start()
        return processes.url

    def _mysql(self) -> str:
        place = sa.make_url(self._request.getfixturevalue("mysql_url"))
        own = place.set(database=f"documents_{self['name']}")
        return self._made(place, own, "CHARACTER SET utf8mb4")

    def _postgres(self) -> str:
        place = sa.make_url(self._request.getfixturevalue("postgres_url"))
        own = place.set(database=f"documents_{self['name']}")
        return self._made(place, own, "ENCODING 'UTF8'", "WITH (FORCE)")

    def _made(self, place: sa.URL, own: sa.URL, options: str, drop: str = "") -> str:
        """Make a database until the end of the test."""
        engine = sa.create_engine(place, isolation_level="AUTOCOMMIT")

        def execute(statement: str) -> None:
            with engine.connect() as connection:
                connection.execute(sa.text(statement))

        execute(f"CREATE DATABASE {own.database} {options}")
        self._request.addfinalizer(lambda: execute(f"DROP DATABASE {own.database} {drop}"))
        return own.render_as_string(hide_password=False)


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_the_blocks_of_a_document_run(
    path: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    text = path.read_text(encoding="utf-8")
    needed = {
        variable: str(request.getfixturevalue(fixture))
        for word, variable, fixture in FIXTURES
        if word in text
    }
    values = Services(request, tmp_path)
    names = {"TACTFUL_LOG__TOPIC": "tactful-log", "TACTFUL_WORKER__GROUP": "workers"}
    needed |= {setting: f"{word}-{values['name']}" for setting, word in names.items()}
    session = Session(tmp_path, needed)
    values |= {"port": str(session.port), "second": str(free_port())}
    values["folder"] = str(session.checkout)
    values["webhook"] = session.webhook
    problem = session.run(substituted(steps(text), values))
    assert not problem, f"{path.relative_to(ROOT)}, {problem}"


def test_few_blocks_are_left_out_and_each_says_why() -> None:
    left_out = {
        f"{path.relative_to(ROOT)}:{step.line}": step.text
        for path in DOCUMENTS
        for step in steps(path.read_text(encoding="utf-8"))
        if step.action == "not run"
    }
    assert len(left_out) <= MOST_NOT_RUN, left_out
    for place, reason in left_out.items():
        assert len(reason.split()) >= 3, f"{place}: a reason is a phrase, such as 'needs systemd'"


def test_every_mark_is_of_a_block() -> None:
    for path in DOCUMENTS:
        for mark, fence in _marks(path.read_text(encoding="utf-8")):
            assert fence.lstrip().startswith("```"), f"{path.relative_to(ROOT)}: {mark}"


def _marks(text: str) -> Iterator[Any]:
    """Marks of blocks, each with the line after it."""
    pattern = r"(<!-- (?:not run|file|adds to|printed)\b[^>]*-->)\s*\n(.*)"
    return (match.groups() for match in re.finditer(pattern, text))
