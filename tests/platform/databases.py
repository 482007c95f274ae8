"""Databases for the metadata's tests: one of each backend, without tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tactful.metadata.store import VERSION_TABLE
from tactful.metadata.tables import tables

Location = str | Path
SERVERS = [pytest.param(name, marks=pytest.mark.service(name)) for name in ("mysql", "postgres")]
BACKENDS = ["sqlite", *SERVERS]


def empty_database(request: pytest.FixtureRequest, folder: Path) -> Iterator[Location]:
    """The database that `request.param` names; for fixtures."""
    if request.param == "sqlite":
        yield folder / "metadata.db"
        return
    url: str = request.getfixturevalue(f"{request.param}_url")
    names = [*tables.tables, VERSION_TABLE]
    execute(url, *(f"DROP TABLE IF EXISTS {name}" for name in names))
    yield url
    execute(url, *(f"DROP TABLE IF EXISTS {name}" for name in names))


def execute(location: Location, *statements: str) -> None:
    text = str(location)
    engine = sa.create_engine(text if "://" in text else f"sqlite:///{text}")
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()
