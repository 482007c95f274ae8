"""Restores up to a time: the features of that time, and nothing that must stay comes back."""

from __future__ import annotations

import contextlib
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.platform.erasure.test_erase import (
    FIELDS,
    Tokens,
    leave_traces,
    others,
    scan,
    settings_of,
)
from tests.platform.maintenance.test_backup import (
    draw,
    erase,
    files_of,
    log_of,
    restored,
    values_of,
)
from tests.platform.metadata.test_rights import installed
from tests.platform.support import Live, build, killed_after, now_ms
from tests.streaming.streams import definitions, random_entries

from tactful.cli.main import main
from tactful.config.settings import Settings
from tactful.config.storage import LogSettings
from tactful.erasure.erase import complete_erasures
from tactful.errors import BackupError
from tactful.maintenance.backup import make_backup
from tactful.maintenance.point_in_time import Cut, PointInTime
from tactful.metadata.restore_journal import RESTORING, finish_restore
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import MemoryState, RocksState, StateStore

START = 1_700_000_000_000  # of the receipt of records


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


class Made:
    """A data directory with a log of random entries, ten of which are received at a time."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings = settings
        self.entries = [encode_entry(entry) for entry in random_entries(seed, 600)]
        self.definitions = definitions()

    def append(self, begin: int, end: int) -> None:
        """Append some of the entries; a segment holds about a hundred."""
        for first in range(begin, end, 10):
            time = START + first * 100
            log = EmbeddedLog(
                self.settings.storage.data / "log",
                clock=lambda time=time: time,  # type: ignore[misc]
                segment_bytes=20_000,
                durability="process",
            )
            with log:
                log.append(self.entries[first : first + 10])

    def compute(self, end: int) -> None:
        """Bring the state up to an offset."""
        with contextlib.closing(
            self.engine(RocksState(self.settings.storage.data / "state"))
        ) as it:
            self.apply(it, log_of(self.settings)[:end])

    def engine(self, store: StateStore) -> Engine:
        return Engine(self.definitions, store)

    def apply(self, engine: Engine, records: list[tuple[int, bytes]]) -> None:
        new = [record for record in records if record[0] >= engine.offset]
        for first in range(0, len(new), 50):
            engine.apply(new[first : first + 50])
        engine.commit()

    def features(self, engine: Engine) -> Any:
        at = engine.watermark + 60_000  # panes that are over by then may be gone
        users = [engine.read("user", f"u{n}", at) for n in range(20)]
        items = [engine.read("item", f"i{n}", at) for n in range(20)]
        groups = [engine.read("category", name, at) for name in "xyz"]
        return rounded([users, items, groups]), engine.watermark

    def by_hand(self, until: int) -> Any:
        """Compute the features of a time from the entries received before it, and only them."""
        records = [
            (n, entry) for n, entry in enumerate(self.entries) if START + n // 10 * 1000 < until
        ]
        engine = self.engine(MemoryState())
        self.apply(engine, records)
        return len(records), self.features(engine)

    def restored(self) -> Any:
        """Compute the features as the next start does."""
        log = log_of(self.settings)
        state = RocksState(self.settings.storage.data / "state")
        with contextlib.closing(self.engine(state)) as engine:
            self.apply(engine, log)
            return len(log), self.features(engine)


def rounded(value: Any) -> Any:
    """Round numbers: batches, which differ, are summed in another order."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def cut_at(settings: Settings, backup: Path, until: int, **options: Any) -> Cut:
    options = {"without_tombstones": True, "replace": True, **options}
    only_show = options.pop("only_show", False)
    _, parts = restored(settings, backup, point=PointInTime(until, only_show), **options)
    assert isinstance(parts.cut, Cut)
    return parts.cut


@pytest.mark.slow
def test_features_are_those_of_a_replay_up_to_the_time(tmp_path: Path, settings: Settings) -> None:
    """Before, in and after the backup, with and without its state, at and between receipts."""
    made = Made(settings, 1)
    made.append(0, 300)
    made.compute(230)
    backup, present = tmp_path / "backup", tmp_path / "present"
    manifest = make_backup(settings, backup, clock=now_ms)
    assert (manifest.log, manifest.state) == ((0, 300), 230)
    made.append(300, 600)
    made.compute(580)
    shutil.copytree(settings.storage.data, present)
    different: set[str] = set()
    for offset in (10, 220, 230, 300, 305, 410, 600):
        until = START + (offset + 9) // 10 * 1000
        shutil.rmtree(settings.storage.data)
        shutil.copytree(present, settings.storage.data)
        cut = cut_at(settings, backup, until)
        assert (cut.end + cut.records, cut.continued) == (600, True)
        assert sum(cut.kinds.values()) == cut.records
        assert cut.state == ("kept" if cut.end >= 230 else "computed")
        found, by_hand = made.restored(), made.by_hand(until)
        assert found == by_hand
        different.add(repr(by_hand))
        with EmbeddedLog(settings.storage.data / "log", read_only=True) as log:
            assert all(log.received(n) == START + n // 10 * 1000 for n in range(cut.end))
        if cut.records:
            assert cut.first_at == START + cut.end * 100
    assert len(different) == 7
    with EmbeddedLog(settings.storage.data / "log") as log:
        assert log.append([b"more"]) == 601


def test_the_log_of_another_history_is_not_continued(tmp_path: Path, settings: Settings) -> None:
    """After an earlier restore other records have the same offsets."""
    made = Made(settings, 1)
    made.append(0, 300)
    made.compute(300)
    backup = tmp_path / "backup"
    make_backup(settings, backup, clock=now_ms)
    shutil.rmtree(settings.storage.data)
    other = Made(settings, 2)
    other.append(0, 600)
    cut = cut_at(settings, backup, START + 40_000)
    assert (cut.continued, cut.end, cut.records) == (False, 300, 0)
    assert made.restored() == made.by_hand(START + 30_000)
    shutil.rmtree(settings.storage.data / "log")
    cut = cut_at(settings, backup, START + 20_000)
    assert (cut.continued, cut.end, cut.records, cut.state) == (False, 200, 100, "computed")
    assert made.restored() == made.by_hand(START + 20_000)


def test_times_that_cannot_be_restored_change_nothing(tmp_path: Path, settings: Settings) -> None:
    made = Made(settings, 1)
    made.append(0, 300)
    made.compute(300)
    with EmbeddedLog(settings.storage.data / "log", retention_bytes=30_000) as log:
        assert log.trim(300) > 0
    backup = tmp_path / "backup"
    make_backup(settings, backup, clock=now_ms)
    before = files_of(settings.storage.data)
    with pytest.raises(BackupError, match="name a later time"):
        cut_at(settings, backup, START)
    with pytest.raises(BackupError, match="use a backup that was made before that time"):
        cut_at(settings, backup, START + 29_000)
    kafka = replace(settings, log=LogSettings(kind="kafka", brokers="b:9092"))
    with pytest.raises(BackupError, match="in Kafka, from which no records can be cut"):
        restored(kafka, backup, point=PointInTime(START))
    shown = cut_at(settings, backup, START + 30_000, only_show=True)
    assert (shown.end, shown.records) == (300, 0)
    assert files_of(settings.storage.data) == before


@pytest.mark.slow
@pytest.mark.parametrize("state", ["kept", "computed"])
def test_who_is_erased_after_the_time_stays_erased(
    tmp_path: Path, settings: Settings, state: str
) -> None:
    """The log in place has forgotten the user, the state of the backup has not."""
    tokens = Tokens(*FIELDS)
    backup = tmp_path / "backup"
    with Live(Platform.open(settings, build)) as live:
        others(live)
        early = now_ms()
        leave_traces(live, tokens)
        if state == "kept":
            others(live, 20)
        live.http.post("/v1/recommend", json={"after": others(live, 40), "user_id": "other-0"})
        make_backup(settings, backup, clock=now_ms)
        others(live, 60)
        late = now_ms() + 1
        others(live, 80)
    assert scan(backup, tokens.needles())
    erase(settings, tokens["user"])
    until = late if state == "kept" else early + 1
    assert cut_at(settings, backup, until, without_tombstones=False).state == state
    with installed(settings) as installation:
        complete_erasures(installation)
    assert scan(settings.storage.data, tokens.needles()) == {}
    with Live(Platform.open(settings, build)) as live:
        live.http.post("/v1/recommend", json={})
        views = [value["views"] for value in values_of(live)]
        assert sum(views) == (80 if state == "kept" else 20)
        refused = live.http.post(
            "/v1/events", json=[{"event_id": "x", "type": "view", "user_id": tokens["user"]}]
        ).json()
        assert refused["accepted"] == 0


def test_releases_after_the_time_stay_published_and_paid(
    tmp_path: Path, settings: Settings
) -> None:
    made = Made(settings, 1)
    made.append(0, 300)
    made.compute(300)
    assert draw(settings, 0, 10) == [10, 10]
    backup = tmp_path / "backup"
    make_backup(settings, backup, clock=now_ms)
    made.append(300, 400)
    assert draw(settings, 60_000, 20) == [20, 20]
    cut_at(settings, backup, START + 10_000)
    assert draw(settings, 60_000, 99) == [20, 20]
    assert draw(settings, 0, 99) == [10, 10]
    made.compute(100)
    cut_at(settings, backup, START + 10_000)  # again, and over itself
    assert draw(settings, 60_000, 99) == [20, 20]


WORK = """
import pickle, time
from pathlib import Path
from tactful.maintenance.backup import Trust
from tactful.maintenance.point_in_time import PointInTime
from tactful.maintenance.restore import restore_backup

settings = pickle.loads(Path(sys.argv[1]).read_bytes())
point = PointInTime(int(sys.argv[3]))

def work(count):
    sys.addaudithook(countdown(count, ("os.rename", "os.remove", "os.mkdir", "os.rmdir")))
    restore_backup(
        settings, Path(sys.argv[2]), clock=lambda: time.time_ns() // 1_000_000, replace=True,
        without_tombstones=True, point=point,
    )
"""


def steps() -> Iterator[int]:
    count = 0
    while count < 10_000:
        yield count
        count += 3 + count // 3


@pytest.mark.slow
def test_a_killed_restore_is_the_old_or_that_of_the_time(
    tmp_path: Path, settings: Settings
) -> None:
    made = Made(settings, 1)
    made.append(0, 300)
    made.compute(230)
    backup, present = tmp_path / "backup", tmp_path / "present"
    make_backup(settings, backup, clock=now_ms)
    made.append(300, 600)
    until = START + 41_000
    data = settings.storage.data
    shutil.copytree(data, present)
    pickled = tmp_path / "pickled"
    pickled.write_bytes(pickle.dumps(settings))
    old, new = log_of(settings), log_of(settings)[:410]
    seen: set[str] = set()
    with killed_after(WORK, pickled, backup, until) as killed_at:
        for count in steps():
            shutil.rmtree(data)
            shutil.copytree(present, data)
            if not killed_at(count):
                break
            finish_restore(data)
            assert not (data / RESTORING).exists()
            found = log_of(settings)
            assert found in (old, new)
            seen.add("old" if found == old else "new")
            if found == new:
                assert made.restored() == made.by_hand(until)
    assert seen == {"old", "new"}
    assert made.restored() == made.by_hand(until)
    # And once more, over the restored data, which the log of the backup reaches.
    assert cut_at(settings, backup, until).end == 410
    assert made.restored() == made.by_hand(until)


def test_the_command_shows_what_is_lost(tmp_path: Path, settings: Settings) -> None:
    made = Made(settings, 1)
    made.append(0, 300)
    made.compute(300)
    make_backup(settings, tmp_path / "backup", clock=now_ms)
    made.append(300, 600)
    before = log_of(settings)
    command = ["restore", str(tmp_path / "backup"), "--data", str(settings.storage.data)]
    command += ["--without-tombstones", "--until", "2023-11-14T23:14:00+01:00"]
    environment = {"TACTFUL_ENGINE__FEATURES": str(settings.features)}
    shown = CliRunner().invoke(main, [*command, "--show"], env=environment)
    assert shown.exit_code == 0, shown.output
    assert "up to 2023-11-14 22:14:00 UTC" in shown.output
    assert "records lost: 200" in shown.output
    assert "received 2023-11-14 22:14:00 UTC to 2023-11-14 22:14:19 UTC" in shown.output
    assert log_of(settings) == before
    done = CliRunner().invoke(main, [*command, "--replace"], env=environment)
    assert done.exit_code == 0, done.output
    assert log_of(settings) == before[:400]
    bad = CliRunner().invoke(main, [*command[:-1], "yesterday"], env=environment)
    assert (bad.exit_code, "'yesterday' is no time such as" in bad.output) == (2, True)
