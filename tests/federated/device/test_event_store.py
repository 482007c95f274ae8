"""What a device remembers is sealed, limited, agreed to, and gone when it is wiped."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_federated.device.event_store import EventStore
from tactful_federated.errors import ConsentError, SettingsError, StoreError

KEY = b"k" * 32
DAY = 86_400.0


class Clock:
    now = 1000 * DAY

    def __call__(self) -> float:
        return self.now


def store(path: Path, clock: Clock | None = None, **more: Any) -> EventStore:
    return EventStore(path / "events.db", KEY, now=clock or Clock(), **more)


@pytest.fixture
def kept(tmp_path: Path) -> EventStore:
    kept = store(tmp_path)
    kept.give_consent()
    return kept


def test_visits_come_back_by_time_and_outlive_a_restart(tmp_path: Path) -> None:
    kept = store(tmp_path)
    assert not kept.consent
    with pytest.raises(ConsentError):
        kept.add(["tea"])
    assert kept.visits() == []
    kept.give_consent()
    kept.add(["milk", "tea"])
    kept.add(["bread"], at=999 * DAY)
    kept.add(["late"], at=5000 * DAY)  # a time to come is now
    kept.close()
    again = store(tmp_path)
    assert again.consent
    assert again.visits() == [["bread"], ["milk", "tea"], ["late"]]


def test_no_category_is_readable_in_the_file(tmp_path: Path, kept: EventStore) -> None:
    for _ in range(50):
        kept.add(["marmalade", "hemlock"])
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"marmalade" not in everything and b"hemlock" not in everything
    sealed = kept._file.execute("SELECT sealed FROM visits").fetchall()
    assert len({row[0] for row in sealed}) == 50  # equal visits do not look equal
    kept._file.execute("UPDATE visits SET day = day + 1")
    with pytest.raises(StoreError):
        kept.visits()


def test_old_and_surplus_visits_are_deleted(tmp_path: Path) -> None:
    clock = Clock()
    kept = store(tmp_path, clock, retention_days=10, most_visits=3)
    kept.give_consent()
    kept.add(["old"], at=clock.now - 10 * DAY)
    kept.add(["young"], at=clock.now - 9 * DAY)
    assert kept.visits() == [["young"]]
    for name in "abc":
        kept.add([name])
    assert kept.visits() == [["a"], ["b"], ["c"]]
    clock.now += 10 * DAY
    assert kept.visits() == []
    assert kept._file.execute("SELECT count(*) FROM visits").fetchone() == (0,)


def test_withdrawal_wipes_the_file_and_its_old_pages(tmp_path: Path, kept: EventStore) -> None:
    for number in range(40):
        kept.add([f"category {number}"] * 20)
    path = tmp_path / "events.db"
    sealed = [row[0] for row in kept._file.execute("SELECT sealed FROM visits")]
    copy = path.read_bytes()
    assert any(data in copy for data in sealed)
    kept.withdraw_consent()
    assert not kept.consent and kept.visits() == []
    after = path.read_bytes()
    assert not any(data[:24] in after for data in sealed)
    kept.give_consent()
    kept.add(["new"])
    # A row that survived elsewhere cannot be brought back: the salt is another one.
    kept._file.execute("INSERT INTO visits (day, sealed) VALUES (1000, ?)", (sealed[0],))
    with pytest.raises(StoreError, match="altered outside"):
        kept.visits()


def test_a_wipe_that_breaks_off_leaves_all_or_nothing(tmp_path: Path) -> None:
    clock = Clock()
    kept = store(tmp_path, clock)
    kept.give_consent()
    kept.add(["tea"])

    def breaks_off() -> None:
        EventStore._renew_salt(kept)
        raise KeyboardInterrupt

    kept._renew_salt = breaks_off  # type: ignore[method-assign]
    for wipe in (kept.withdraw_consent, kept.wipe):
        with pytest.raises(KeyboardInterrupt):
            wipe()
    assert kept.consent and kept.visits() == [["tea"]]
    kept.close()
    kept = store(tmp_path, clock)
    assert kept.consent and kept.visits() == [["tea"]]
    kept.withdraw_consent()
    kept.close()
    kept = store(tmp_path, clock)
    assert not kept.consent and kept.visits() == []


def test_another_key_or_no_store_is_refused(tmp_path: Path) -> None:
    store(tmp_path).close()
    with pytest.raises(StoreError, match="another key"):
        EventStore(tmp_path / "events.db", b"x" * 32, now=Clock())
    (tmp_path / "rubbish").write_bytes(b"rubbish" * 999)
    with pytest.raises(StoreError, match="not a store"):
        EventStore(tmp_path / "rubbish", KEY, now=Clock())
    wrongs: list[dict[str, Any]] = [{"retention_days": 0}, {"most_visits": 0}]
    for wrong in wrongs:
        with pytest.raises(SettingsError):
            store(tmp_path, **wrong)
    with pytest.raises(SettingsError):
        EventStore(tmp_path / "new.db", b"short", now=Clock())


@settings(max_examples=20)
@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=2), max_size=8),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=6),
)
def test_a_history_is_imported_once(
    tmp_path_factory: pytest.TempPathFactory,
    history: list[list[str]],
    parts: list[tuple[int, int]],
) -> None:
    """At each start `--history` appended the visits again."""
    folder, most = tmp_path_factory.mktemp("store"), Counter[str]()
    for first, last in [*parts, (0, 8)]:
        again = store(folder)
        again.give_consent()
        given = history[first:last]
        again.import_visits(given)
        most |= Counter(map(str, given))
        assert Counter(map(str, again.visits())) == most
        again.close()


def test_imported_visits_do_not_come_back(tmp_path: Path) -> None:
    clock = Clock()
    kept = store(tmp_path, clock, retention_days=2)
    with pytest.raises(ConsentError):
        kept.import_visits([["tea"]])
    kept.give_consent()
    kept.import_visits([["tea"], ["tea"], ["milk"]])
    clock.now += 3 * DAY
    kept.import_visits([["tea"], ["tea"], ["milk"]])
    assert kept.visits() == []  # they are too old
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert len(kept._file.execute("SELECT digest FROM imported").fetchall()) == 3
    assert b"milk" not in everything
    kept.withdraw_consent()
    kept.give_consent()
    kept.import_visits([["tea"]])  # as after a first consent
    assert kept.visits() == [["tea"]]
    # A store of an earlier version counts the visits that it has.
    kept._file.execute("DROP TABLE imported")
    kept._file.execute("DELETE FROM setting WHERE name = 'imports'")
    kept.close()
    old = store(tmp_path, clock)
    old.import_visits([["tea"], ["milk"]])
    assert old.visits() == [["tea"], ["milk"]]
    old.close()
