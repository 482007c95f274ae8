"""Where ledgers are kept in tests: every test that asks for a location runs on each database."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tactful_privacy import ledger_schema


@pytest.fixture(params=["sqlite", pytest.param("mysql", marks=pytest.mark.service("mysql"))])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where an empty ledger may be made."""
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.db")
        return
    url: str = request.getfixturevalue("mysql_url")
    engine = sa.create_engine(url)
    ledger_schema.tables.drop_all(engine)
    yield url
    ledger_schema.tables.drop_all(engine)
    engine.dispose()
