"""Ledgers and keyrings of tests; a test with `location` runs on each database."""

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tactful_privacy.ledger import schema as ledger_schema
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.people.pseudonyms import Keyring

_SERVERS = [pytest.param(name, marks=pytest.mark.service(name)) for name in ("mysql", "postgres")]


@pytest.fixture(params=["sqlite", *_SERVERS])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Location for an empty ledger: an SQLite path, then the URL of each server."""
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.db")
        return
    url: str = request.getfixturevalue(f"{request.param}_url")
    engine = sa.create_engine(url)
    ledger_schema.tables.drop_all(engine)
    yield url
    ledger_schema.tables.drop_all(engine)
    engine.dispose()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty SQLite ledger with a daily epsilon of 1."""
    opened = Ledger(tmp_path / "ledger.db", daily_epsilon=1)
    yield opened
    opened.close()


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    """A new keyring with one key."""
    return Keyring(tmp_path / "keyring.json", clock=lambda: 0)


@pytest.fixture
def in_child() -> Callable[..., int]:
    """Run a function in a forked process; the result is its exit status, -9 if it was killed."""

    def run(work: Callable[..., object], *arguments: Any) -> int:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                work(*arguments)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run
