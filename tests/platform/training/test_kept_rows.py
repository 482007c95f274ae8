"""A training goes on from the last one: what is replayed, and what is left out."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.shop import definitions, engine_at, entries, make_shop, write_log

from tactful.recall.index import build_index
from tactful.schemas.interactions import at_least
from tactful.training import train as training
from tactful.training.history import History
from tactful.training.kept_rows import Asked, Keeper, Kept
from tactful.training.options import TrainingOptions
from tactful.training.questions import sample_questions
from tactful.training.replay_rows import Rows, collect, replay_engine
from tactful.training.train import Trained, train
from tactful.util.checkpoint import Checkpoint
from tactful_streaming.contract.log_entries import Entry, Tick, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import MemoryState, RocksState, copy_state

OPTIONS = TrainingOptions(
    task="next", label="view", label_days=14, lists=300, rounds=4, threads=1, validation=0.3
)


@cache
def small_shop() -> tuple[Entry, ...]:
    return tuple(entries(make_shop(3, people=8, items=40, days=30)))


def write_state(path: Path, log: EmbeddedLog, offset: int, identity: Identity | None) -> None:
    """Write the state that a server would have at an offset."""
    engine = Engine(definitions(), RocksState(path), EngineOptions(identity=identity))
    engine_at(engine, log, offset).commit()
    engine.close()


@pytest.mark.slow
@given(share=st.floats(0.5, 0.98), linked=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=2, deadline=None)
def test_rows_of_a_replay_from_a_state_are_those_of_a_whole_replay(
    tmp_path_factory: pytest.TempPathFactory, share: float, linked: bool, seed: int
) -> None:
    folder, identity = tmp_path_factory.mktemp("kept"), Identity() if linked else None
    log = write_log(folder / "log", small_shop())
    history = History.read(log)
    begin = int(share * log.end)
    options = replace(OPTIONS, seed=seed, lists=60)
    taking = at_least("view", history.types)
    questions = sample_questions(history, 0, options, taking, after=begin)
    index = build_index(history.item_ids, history.interactions(before=questions[0].offset))
    write_state(folder / "state", log, begin, identity)
    copy_state(folder / "state", folder / "copy")
    read: list[int] = []

    class Counted:
        begin, end = log.begin, log.end

        def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
            read.append(offset)
            return log.read(offset, limit)

    given_ = (index, questions, 0, options, identity)
    opened = partial(replay_engine, definitions())
    _, whole = collect(log, opened, *given_, history=history)
    opened = partial(replay_engine, definitions(), state=folder / "copy")
    _, new = collect(Counted(), opened, *given_, history=history)
    assert len(new.sizes) == len(questions) > 5
    assert min(read) == begin
    assert new.sizes.tolist() == whole.sizes.tolist()
    assert np.array_equal(new.labels, whole.labels)
    assert np.array_equal(new.features, whole.features, equal_nan=True)
    log.close()


@dataclass
class Shop:
    """A log that grows, the state of its server, and the checkpoint of its trainings."""

    folder: Path
    log: EmbeddedLog
    checkpoint: Checkpoint
    done: int = 0

    def send(self, share: float, *, applied: float = 1.0) -> None:
        """Append the log up to a share of the shop; the server has applied a part of that."""
        what = small_shop()
        until = int(share * len(what))
        self.log.append([encode_entry(entry) for entry in what[self.done : until]])
        self.done = until
        write_state(self.folder / f"state-{until}", self.log, int(applied * until), None)
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "state").unlink()
        (self.folder / "state").symlink_to(self.folder / f"state-{until}")

    def train(self, options: TrainingOptions = OPTIONS) -> Trained:
        keeper = Keeper(self.checkpoint, self.folder / "state", definitions())
        place = self.folder / f"model-{self.done}"
        done = train(
            *(self.log, definitions(), place, options),
            checkpoint=self.checkpoint,
            keeper=keeper,
        )
        self.checkpoint.end()
        return done


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    log = EmbeddedLog(tmp_path / "log", durability="process")
    with Checkpoint.hold(tmp_path / "training") as checkpoint, contextlib.closing(log):
        yield Shop(tmp_path, log, checkpoint)


def asked_in(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """Remember what each training asked anew."""
    asked: list[Asked] = []
    honest = collect

    def watch(*given_: object, **named: object) -> tuple[Rows, Rows]:
        questions: Sequence[object] = given_[3]  # type: ignore[assignment]
        asked.append(Asked.of(questions))  # type: ignore[arg-type]
        return honest(*given_, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "collect", watch)
    return asked


@pytest.mark.slow
def test_a_training_replays_only_what_is_new(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_in(monkeypatch)
    shop.send(0.8)
    assert shop.train().replayed_from == 0
    begin = shop.done
    shop.send(0.9)
    second = shop.train()
    assert second.replayed_from == begin
    assert asked[1].offset.min() >= begin
    manifest = second.manifest
    assert len(asked[1]) < manifest.questions <= OPTIONS.lists
    assert len(second.held_back_at) == len(second.held_back.sizes)
    assert second.held_back_at[-1] >= asked[1].at[0], "it is judged on new questions"
    shop.send(1.0)
    third = shop.train()
    assert third.replayed_from > begin
    assert np.intersect1d(asked[2].offset, asked[1].offset).size == 0


@pytest.mark.slow
def test_a_server_that_was_behind_is_caught_up_with(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state is older than what was asked: the replay begins there, the questions do not."""
    asked = asked_in(monkeypatch)
    shop.send(0.8, applied=0.9)
    shop.train()
    begin = shop.done
    shop.send(0.95)
    assert shop.train().replayed_from == int(0.9 * begin)
    assert asked[1].offset.min() >= begin


@pytest.mark.slow
def test_nothing_new_needs_no_replay(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_in(monkeypatch)
    shop.send(0.9)
    first = shop.train()
    second = shop.train()
    assert len(asked) == 1
    assert second.manifest.questions == first.manifest.questions
    assert second.manifest.metrics["ndcg20"] == pytest.approx(first.manifest.metrics["ndcg20"])


@pytest.mark.slow
@pytest.mark.parametrize("change", ["options", "state", "rows", "log"])
def test_what_cannot_be_continued_is_replayed(shop: Shop, change: str) -> None:
    shop.send(0.8)
    shop.train()
    begin = shop.done
    shop.send(0.9)
    kept = shop.folder / "training" / "kept"
    options = OPTIONS
    if change == "options":
        options = replace(OPTIONS, negatives=20)
    elif change == "log":  # it was trimmed beyond the state
        about = kept / "about.json"
        about.write_text(about.read_text().replace(f'"offset":{begin}', '"offset":-1'))
    elif change == "state":
        (kept / "state" / "CURRENT").unlink()
    else:
        (kept / "rows.npz").write_bytes(b"damaged")
    assert shop.train(options).replayed_from == 0


@pytest.mark.slow
def test_an_erasure_deletes_what_is_kept(shop: Shop) -> None:
    shop.send(0.9)
    shop.train()
    assert (shop.folder / "training" / "kept" / "state").is_dir()
    shop.checkpoint.clear()
    assert [it.name for it in (shop.folder / "training").iterdir()] == ["lock"]
    assert shop.train().replayed_from == 0


@pytest.mark.parametrize("free", [2.5, 3.5])
def test_a_copy_does_not_fill_the_disk(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, free: float
) -> None:
    shop.send(0.5)
    size = sum(file.stat().st_size for file in (shop.folder / "state").iterdir())
    room = shutil.disk_usage(shop.folder)._replace(free=int(free * size))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: room)
    Keeper(shop.checkpoint, shop.folder / "state", definitions()).copy_state()
    assert (shop.folder / "training" / "next" / "state").exists() is (free > 3)


def test_questions_of_people_who_left_are_left_out(tmp_path: Path) -> None:
    """Their events are blank in the log that a training reads."""
    what = list(small_shop())
    with write_log(tmp_path / "log", what) as log:
        history = History.read(log)
    questions = sample_questions(history, 0, OPTIONS, at_least("view", history.types))
    person = questions[0].subject
    numbers = np.arange(len(questions), dtype=np.float32)
    ones = np.ones(len(questions))
    rows = Rows(numbers[:, None], ones > 0, ones.astype(np.int64), ones.astype(np.float32))
    kept = Kept(Asked.of(questions), rows, whole=200)
    for offset, entry in enumerate(what):
        if getattr(entry, "user_id", None) == person:
            what[offset] = Tick(timestamp=0)
    with write_log(tmp_path / "less", what) as log:
        left = kept.still_in(History.read(log), questions[20].at)
    wanted = [
        number
        for number, question in enumerate(questions)
        if question.subject != person and question.at >= questions[20].at
    ]
    assert 0 < len(wanted) < len(questions) - 20
    assert left.rows.features[:, 0].tolist() == wanted
    assert left.asked.offset.tolist() == [questions[number].offset for number in wanted]
    assert left.whole == sum(number < 200 for number in wanted)


def test_a_sample_keeps_order_and_candidates() -> None:
    """Lists before `whole` are sampled already; later ones are when they are learned from."""
    sizes = np.array([2, 3, 50, 4, 60], np.int64)
    labels = np.zeros(sizes.sum(), np.bool_)
    labels[np.cumsum(sizes) - 1] = True
    features = np.repeat(np.arange(5, dtype=np.float32), sizes)[:, None]
    rows = Rows(features, labels, sizes, np.ones(5, np.float32))
    asked = Asked(*(np.arange(5, dtype=np.int64) for _ in range(4)))
    kept = Kept(asked, rows, whole=2)
    learn, judge = kept.divided(4, replace(OPTIONS, negatives=10))
    assert learn.sizes.tolist() == [2, 3, 11, 4]
    assert learn.labels.sum() == 4
    assert judge.sizes.tolist() == [60]
    assert [*np.unique(learn.features)] == [0, 1, 2, 3]
    few = kept.thinned(3, np.random.default_rng(0))
    assert len(few.asked) == 3
    assert few.asked.offset.tolist() == sorted(few.asked.offset.tolist())
    assert few.rows.sizes.tolist() == sizes[few.asked.offset].tolist()
    assert few.whole == int((few.asked.offset < 2).sum())


@pytest.mark.slow
def test_two_processes_describe_a_training_alike() -> None:
    """Sets have another order in each process, which made every training replay the whole log."""
    program = """
import msgspec
from tactful.training.options import TrainingOptions
from tactful.training.train import _Work, _about
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.identity.resolver import Identity
from tactful.config.settings import Settings
definitions = load_definitions(Settings().features)
work = _Work(definitions, TrainingOptions(), Identity(), None, None, None, None, print)
print(msgspec.json.encode(_about(work, "view", ordered=True)).decode())
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in range(2)
    }
    assert len(found) == 1


def test_an_engine_on_a_copy_reads_all_users(tmp_path: Path) -> None:
    """Users beyond its memory are read from the copy when they are needed."""
    with write_log(tmp_path / "log", small_shop()) as log:
        write_state(tmp_path / "state", log, log.end, None)
        engine = Engine(
            definitions(), RocksState(tmp_path / "state"), EngineOptions(memory_bytes=1)
        )
        whole = engine_at(Engine(definitions(), MemoryState()), log, log.end)
        at = whole.watermark
        subjects = {it for it in History.read(log).subjects if it is not None}
        assert len(subjects) == 8
        for subject in subjects:
            assert engine.read("user", subject, at=at) == whole.read("user", subject, at=at)
        engine.close()
