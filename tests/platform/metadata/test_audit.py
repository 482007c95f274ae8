"""The audit trail: one list of everything that was changed and of everybody who was looked at."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from operator import methodcaller
from pathlib import Path

import pytest
import sqlalchemy as sa

from tactful.metadata.audit import AuditTrail
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import changes, rollout_changes
from tactful.models.audit_log import ModelLog
from tactful.schemas.subjects.audit import AuditEntry
from tactful.subjects.access_log import AccessLog
from tactful_privacy.people.pseudonyms import Keyring


def fill(database: MetadataStore, directory: Path, clock: Callable[[], int]) -> AuditTrail:
    """Write some entries of every kind."""
    trail = AuditTrail(database, clock=clock)
    accesses = AccessLog(database, Keyring(directory / "keyring.json", clock=clock), clock=clock)
    models = ModelLog(database, clock=clock)
    for number in range(4):
        trail.record_change("ann@shop", "alert.silence", f"rule {number}", "a planned sale")
        accesses.record(f"person-{number}", "export", by="key 0f3a9c21")
        with models.entry("promote", "ranker", by="ann@shop", reason="better", version="4"):
            pass
        rollout = {"key": f"r-{number % 2}", "number": number, "at": clock(), "share": 0.1}
        words = {"action": "start", "changed_by": "bob@shop", "reason": "as planned"}
        insert = sa.insert(rollout_changes).values(**rollout, **words)
        database.change(methodcaller("execute", insert))
    trail.record_change("bob@shop", "alert.edit", "rule 1")
    database.record_definitions("f" * 64, "[]", applied_by="tactful serve")
    trail.record_change("ann@shop", "alerting.test", "sink")
    return trail


def pages(trail: AuditTrail, limit: int, **filters: str) -> list[AuditEntry]:
    collected: list[AuditEntry] = []
    cursor: str | None = ""
    while cursor is not None:
        page, cursor = trail.entries(limit=limit, cursor=cursor, **filters)
        assert len(page) <= limit
        collected += page
    return collected


@pytest.mark.slow
@pytest.mark.parametrize("ticks", [True, False], ids=["each at its time", "all at one time"])
def test_pages_of_any_size_are_the_whole_trail(
    database: MetadataStore, tmp_path: Path, ticks: bool
) -> None:
    times = itertools.count(1_000) if ticks else itertools.repeat(1_000)
    trail = fill(database, tmp_path, lambda: next(times))
    whole, cursor = trail.entries(limit=1_000)
    assert cursor is None
    assert len(whole) == 4 * 4 + 3
    assert [entry.at for entry in whole] == sorted((e.at for e in whole), reverse=True)
    for limit in (1, 5, 19):
        assert pages(trail, limit) == whole, limit


def test_entries_are_found_by_action_and_author(sqlite: MetadataStore, tmp_path: Path) -> None:
    times = itertools.count(1_000)
    trail = fill(sqlite, tmp_path, lambda: next(times))

    def actions(**filters: str) -> set[str]:
        return {entry.action for entry in pages(trail, 3, **filters)}

    assert actions(action="person") == {"person.export"}
    assert actions(action="model.promote") == {"model.promote"}
    assert actions(action="alert") == {"alert.silence", "alert.edit"}, (
        "not those that begin with the letters"
    )
    assert actions(action="model.train") == actions(action="nothing") == set()
    assert actions(action="features") == actions(action="features.apply") == {"features.apply"}
    assert actions(actor="ann@shop") == {"alert.silence", "alerting.test", "model.promote"}
    assert actions(actor="ann@shop", action="model") == {"model.promote"}


def test_the_trail_names_authors_and_no_person(sqlite: MetadataStore, tmp_path: Path) -> None:
    trail = fill(sqlite, tmp_path, lambda: 1_000)
    looks = [entry for entry in pages(trail, 100) if entry.action.startswith("person.")]
    assert {entry.actor for entry in looks} == {"key 0f3a9c21"}
    assert len({entry.target for entry in looks}) == 4
    assert all(entry.target.startswith("user ") for entry in looks)
    assert "person-" not in repr(pages(trail, 100))


@pytest.mark.slow
def test_long_texts_are_cut_and_not_refused(database: MetadataStore) -> None:
    trail = AuditTrail(database, clock=lambda: 1_000)
    trail.record_change("a" * 300, "b" * 80, "é" * 400, "d" * 20_000)
    (entry,) = pages(trail, 10)
    assert [*map(len, (entry.actor, entry.action, entry.target, entry.detail))] == [
        *(255, 64, 255, 10_000)
    ]
    assert len(sqlite_rows := database.fetch(sa.select(changes))) == 1, sqlite_rows


def test_foreign_cursors_are_refused(sqlite: MetadataStore, tmp_path: Path) -> None:
    trail = fill(sqlite, tmp_path, lambda: 1_000)
    _, cursor = trail.entries(limit=1)
    assert cursor is not None
    draw = random.Random(7)
    for wrong in ("x", "W10", "MQ", "WzEsMCxbXV0", "WzEsMCxbMSwyXV0", cursor[:-3], "\u2028"):
        with pytest.raises(ValueError):
            trail.entries(cursor=wrong)
    for _ in range(200):
        foreign = "".join(draw.choices("WzEsMCxbabc0123_-", k=draw.randrange(1, 30)))
        try:
            trail.entries(cursor=foreign)
        except ValueError:
            continue
