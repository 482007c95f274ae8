"""Upgrades of the metadata from each earlier schema, killed in each of their steps."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from tests.platform.databases import Location, execute

from tactful.metadata import store as metadata
from tactful.metadata.store import open_metadata
from tactful.metadata.tables import tables

pytestmark = pytest.mark.slow

_CHANGES = ("CREATE", "ALTER", "DROP", "INSERT", "UPDATE", "DELETE")
_KEPT = "INSERT INTO definition_versions (fingerprint, definitions, applied_at, applied_by) VALUES"


def killed_after_first_change(location: Location) -> None:
    """Upgrade in a process that is killed after its first statement that changes something."""
    process = os.fork()
    if process == 0:

        def kill(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.lstrip().upper().startswith(_CHANGES):
                os.kill(os.getpid(), signal.SIGKILL)

        sa.event.listen(sa.Engine, "after_cursor_execute", kill)
        try:
            open_metadata(location)
        finally:
            os._exit(1)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.fixture
def prepared_metadata() -> None:
    """Run all upgrades in every database."""


def schema_of(location: Location) -> dict[str, Any]:
    """Return columns and indexes of each table."""
    text = str(location)
    engine = sa.create_engine(text if "://" in text else f"sqlite:///{text}")
    inspector = sa.inspect(engine)
    found = {
        name: (
            [(column["name"], str(column["type"])) for column in inspector.get_columns(name)],
            sorted(str(index["name"]) for index in inspector.get_indexes(name)),
        )
        for name in tables.tables
    }
    engine.dispose()
    return found


def test_each_step_killed_in_the_middle(
    location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start finishes every upgrade, from every schema on, and keeps stored rows.

    MySQL commits each CREATE and ALTER by itself: an interrupted step leaves a part of it there.
    """
    whole = command.upgrade
    monkeypatch.setattr(command, "upgrade", lambda config, _: whole(config, "+1"))
    for step in range(1, int(metadata.SCHEMA) + 1):
        killed_after_first_change(location)
        open_metadata(location).close()
        if step == 1:
            execute(location, f"{_KEPT} ('f', 'text', 1, 'serve')")
    with closing(open_metadata(location)) as store:
        assert [it.definitions for it in store.definitions_history()] == ["text"]
    monkeypatch.setattr(command, "upgrade", whole)
    open_metadata(tmp_path / "new.db").close()
    if "://" not in str(location):
        assert schema_of(location) == schema_of(tmp_path / "new.db")
