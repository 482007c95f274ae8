"""Where ledgers are kept in tests: every test that asks for a location runs on each database."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tactful_privacy import ledger_schema

MYSQL = os.environ.get("TACTFUL_TEST_MYSQL")  # URL of an empty database


@pytest.fixture(params=["sqlite", pytest.param("mysql", marks=pytest.mark.service("mysql"))])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where an empty ledger may be made."""
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.db")
        return
    assert MYSQL is not None
    engine = sa.create_engine(MYSQL)
    ledger_schema.tables.drop_all(engine)
    yield MYSQL
    ledger_schema.tables.drop_all(engine)
    engine.dispose()
