"""Training: nothing of the future in a row, what is learned beats what is guessed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.platform.shop import DAY, definitions, engine_at, entries, make_shop, write_log

from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.errors import ModelError
from tactful.models.training_plots import plot_training
from tactful.ranking.features import RANKING_FEATURES, columns_fingerprint
from tactful.ranking.model import (
    Pointer,
    load_model,
    read_manifest,
    version_directory,
    write_pointer,
)
from tactful.recall.index import RecallIndex, build_index
from tactful.recall.tables import Interactions
from tactful.recommend.build import build
from tactful.recommend.recommender import HEURISTIC, LEARNED, RANKING_EXPERIMENT
from tactful.schemas.interactions import at_least
from tactful.schemas.recommendations import RecommendRequest
from tactful.training import replay_rows as training_rows
from tactful.training import train as training
from tactful.training.baselines import NAMES
from tactful.training.discovery import Discovery
from tactful.training.evaluation import Scorecard
from tactful.training.history import History
from tactful.training.intent_trust import INTENDED
from tactful.training.options import TrainingOptions
from tactful.training.questions import Question, sample_questions
from tactful.training.replay_rows import Rows, collect, replay_engine
from tactful.training.train import train
from tactful_streaming.contract.log_entries import Entry, Event, Item
from tactful_streaming.engine.engine import Engine
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import MemoryState

DAYS = 10.0
ALL = TrainingOptions(task="next", label="view", label_days=DAYS, lists=10**6, validation=1.0)
"""Every question, each with all of its candidates; any event about an item is an answer."""


@cache
def small_shop(tied: bool = False) -> tuple[Entry, ...]:
    return tuple(entries(make_shop(3, people=8, items=40, days=30, tied=tied)))


def asked_of(history: History, since: int, options: TrainingOptions = ALL) -> list[Question]:
    return sample_questions(history, since, options, at_least("view", history.types))


class _Collected(Exception):
    """Carries what a training would have learned from."""

    def __init__(self, rows: Sequence[Rows], questions: Sequence[Question]) -> None:
        self.rows = rows
        self.questions = questions


Laid = tuple[Sequence[Question], list[NDArray[np.float32]], list[NDArray[np.bool_]]]


@cache
def whole_shop(tied: bool = False) -> Laid:
    """What `train` learns from the small shop; computed once."""
    return laid_out(small_shop(tied), task_of(tied))


def task_of(tied: bool) -> TrainingOptions:
    return replace(ALL, task="basket" if tied else "next")


def laid_out(what: Sequence[Entry], options: TrainingOptions = ALL) -> Laid:
    """What `train` learns from this log: questions, and features and labels of each."""

    honest = collect

    def stop(*given: Any, **named: Any) -> None:
        raise _Collected(honest(*given, **named), given[3])

    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "collect", stop)
        with write_log(Path(name) / "log", what) as log, pytest.raises(_Collected) as caught:
            train(log, definitions(), Path(name) / "model", options)
    features, labels = (
        [
            array
            for rows in caught.value.rows
            for array in np.split(getattr(rows, name), np.cumsum(rows.sizes))[:-1]
        ]
        for name in ("features", "labels")
    )
    return caught.value.questions, features, labels


def other_future(what: Sequence[Entry], after: int, seed: int) -> list[Entry]:
    """The same log up to offset `after`, then something else that ends at the same time."""
    draw = random.Random(seed)
    events = [it for it in what if isinstance(it, Event)]
    items = [it for it in what if isinstance(it, Item)]
    changed: list[Entry] = list(what[: after + 1])
    # The last thing taken says where the log ends, and so from where lists are learned from.
    last = max(n for n, it in enumerate(what) if isinstance(it, Event) and it.type == "add_to_cart")
    for entry in what[after + 1 : last]:
        assert isinstance(entry, Event)
        chance = draw.random()
        if chance < 0.3:
            continue
        if chance < 0.4:
            item = draw.choice(items)
            changed.append(msgspec.structs.replace(item, price=99.0, category="new"))
        elif chance < 0.5:
            # An event that arrives late: it happened long ago and nobody knew.
            late = draw.choice(events[: len(events) // 2])
            again = f"late-{len(changed)}"
            late = msgspec.structs.replace(late, event_id=again, session_id=again)
            item_id = draw.choice(items).item_id
            taken = {"event_id": f"{again}-2", "type": "add_to_cart", "item_id": item_id}
            changed += [late, msgspec.structs.replace(late, **taken)]
        elif entry.item_id is not None:
            changed.append(msgspec.structs.replace(entry, item_id=draw.choice(items).item_id))
    return [*changed, *what[last:]]


def knows_the_future(laid: Laid, number: int, seed: int, *, tied: bool = False) -> bool:
    """Whether the rows of the questions up to `number` change when what came later does."""
    what = small_shop(tied)
    questions, features, labels = laid
    until = questions[number].offset
    if tied:  # The label is the whole basket: it ends with the purchase.
        until = next(
            offset
            for offset, it in enumerate(what)
            if isinstance(it, Event)
            and it.type == "purchase"
            and it.session_id == questions[number].session_id
        )
    asked, other, other_labels = laid_out(other_future(what, until, seed), task_of(tied))
    assert list(asked[: number + 1]) == list(questions[: number + 1])
    assert questions != asked, "the futures differ"
    return not all(
        np.array_equal(features[n], other[n], equal_nan=True)
        and np.array_equal(labels[n], other_labels[n])
        for n in range(number + 1)
    )


@pytest.mark.slow
@given(share=st.floats(0, 0.7), seed=st.integers(0, 10**6), tied=st.booleans())
@settings(max_examples=4, deadline=None)
def test_no_row_knows_what_came_after_its_question(share: float, seed: int, tied: bool) -> None:
    laid = whole_shop(tied)
    assert not knows_the_future(laid, int(share * len(laid[0])), seed, tied=tied)


@pytest.mark.slow
def test_an_index_of_everything_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = History.interactions
    monkeypatch.setattr(History, "interactions", lambda self, **_: honest(self))
    assert knows_the_future(laid_out(small_shop()), 5, 1)


@pytest.mark.slow
def test_an_index_by_event_time_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that arrive late carry an early time."""
    honest = History.interactions

    def by_time(self: History, *, before: int | None = None) -> Interactions:
        if before is None:
            return honest(self)
        early = self.timestamp < self.timestamp[np.searchsorted(self.offset, before)]
        return Interactions(self.session[early], self.item[early], self.timestamp[early])

    monkeypatch.setattr(History, "interactions", by_time)
    assert knows_the_future(laid_out(small_shop()), 5, 1)


@pytest.mark.slow
def test_looking_one_event_too_far_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = training_rows._replay

    def hasty(engine: Engine, log: EmbeddedLog, *rest: Any) -> Iterator[Question]:
        for question in honest(engine, log, *rest):
            engine_at(engine, log, question.offset + 3)
            yield question

    monkeypatch.setattr(training_rows, "_replay", hasty)
    assert knows_the_future(laid_out(small_shop()), 5, 1)


def test_the_index_ends_before_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of the lists is that of the log before the first."""
    what = small_shop()
    used: list[tuple[RecallIndex, Sequence[Question]]] = []

    def remember(
        log: Any, definitions: Any, index: RecallIndex, questions: Any, *_: Any, **__: Any
    ) -> None:
        used.append((index, questions))
        raise _Collected((), questions)

    monkeypatch.setattr(training, "collect", remember)
    with write_log(tmp_path / "log", what) as log, pytest.raises(_Collected):
        train(log, definitions(), tmp_path / "model", ALL)
    ((index, questions),) = used
    before = history_of(tmp_path / "cut", what[: questions[0].offset])
    wanted = build_index(before.item_ids, before.interactions())
    assert index.built_until == wanted.built_until <= questions[0].at
    for name in ("following.items", "together.weights", "vectors", "popular"):
        one, other = (attrgetter(name)(it) for it in (index, wanted))
        assert np.array_equal(one, other), name


def history_of(path: Path, what: Sequence[Entry]) -> History:
    with write_log(path, what) as log:
        return History.read(log)


@pytest.mark.slow
def test_rows_equal_those_of_a_log_that_ends_at_the_question(tmp_path: Path) -> None:
    what = small_shop()
    log = write_log(tmp_path / "log", what)
    history = History.read(log)
    questions = asked_of(history, history.timestamp[-1] - int(DAYS * DAY))
    index = build_index(history.item_ids, history.interactions(before=questions[0].offset))
    opened = partial(replay_engine, definitions())
    _, whole = collect(log, opened, index, questions, 0, ALL)
    ends = np.cumsum(whole.sizes)
    for number in (0, 1, 7, len(questions) - 1):
        with write_log(tmp_path / f"cut-{number}", what[: questions[number].offset]) as cut:
            _, rows = collect(cut, opened, index, questions[: number + 1], 0, ALL)
        end = int(ends[number])
        assert np.array_equal(rows.features, whole.features[:end], equal_nan=True)
        assert np.array_equal(rows.labels, whole.labels[:end])
        assert rows.sizes.tolist() == whole.sizes[: number + 1].tolist()
    log.close()


@pytest.mark.slow
@pytest.mark.parametrize("linked", [False, True])
def test_rows_need_no_features_of_others(tmp_path: Path, linked: bool) -> None:
    """Only users and visits that are asked about are counted, with the devices they met."""
    draw = random.Random(4)
    what = list(small_shop())
    for number, entry in enumerate(what):
        if isinstance(entry, Event) and entry.user_id is not None:
            device = f"phone-{entry.user_id if draw.random() < 0.9 else draw.randrange(4)}"
            user = entry.user_id if draw.random() < 0.5 else None
            what[number] = msgspec.structs.replace(entry, device_id=device, user_id=user)
            if draw.random() < 0.1:
                what[number] = msgspec.structs.replace(what[number], type="x.login", user_id="u")
    identity = Identity() if linked else None
    with write_log(tmp_path / "log", what) as log:
        history = History.read(log)
        questions = asked_of(history, history.timestamp[-1] - int(DAYS * DAY))[-40::4]
        index = build_index(history.item_ids, history.interactions(before=questions[0].offset))
        given = (log, partial(replay_engine, definitions()), index, questions, 0, ALL, identity)
        rows = [collect(*given, history=of)[1] for of in (history, replace(history, met=None))]
    assert len({question.subject for question in questions}) > 5
    assert np.array_equal(rows[0].features, rows[1].features, equal_nan=True)
    assert np.array_equal(rows[0].labels, rows[1].labels)


@pytest.mark.slow
def test_a_training_reads_the_log_twice(tmp_path: Path) -> None:
    """Once for the history, and once for rows and shown lists."""
    with write_log(tmp_path / "log", small_shop()) as log:
        read: list[int] = []

        class Counted:
            begin, end = log.begin, log.end

            def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
                records = log.read(offset, limit)
                read.extend(at for at, _ in records)
                return records

        train(Counted(), definitions(), tmp_path / "model", replace(ALL, validation=0.3, rounds=2))  # type: ignore[arg-type]
    assert read == [*range(log.end)] * 2


@pytest.mark.slow
def test_an_item_is_no_candidate_before_it_is_in_the_catalogue(tmp_path: Path) -> None:
    what = list(small_shop())
    history = history_of(tmp_path / "log", what)
    questions = asked_of(history, history.timestamp[-1] - int(DAYS * DAY))
    place = questions[-1].offset
    star = "item-000"
    described = next(it for it in what if isinstance(it, Item) and it.item_id == star)
    late = [it for it in what if not (isinstance(it, Item) and it.item_id == star)]
    # Without events about it: one would show that it was there.
    late = [
        msgspec.structs.replace(it, item_id="item-001")
        if isinstance(it, Event) and it.item_id == star and number < place
        else it
        for number, it in enumerate(late)
    ]
    late.insert(place - 1, described)
    late_questions, late_rows, _ = laid_out(late)
    asked = sum(question.offset < place - 1 for question in late_questions)
    assert asked > 20
    # All 40 items are within the quotas: the missing one is missing everywhere.
    assert sum(map(len, whole_shop()[1][:asked])) == 40 * asked
    assert sum(map(len, late_rows[:asked])) == 39 * asked


@pytest.mark.slow
def test_items_described_after_all_events_are_learned(tmp_path: Path) -> None:
    """A shop loads its history first and its catalogue last."""
    what = small_shop()
    items = [it for it in what if isinstance(it, Item)]
    others = [it for it in what if not isinstance(it, Item)]
    questions, rows, labels = laid_out([*others, *items])
    _, wanted, _ = whole_shop()
    assert len(questions) > 20
    assert max(map(len, rows)) <= 40
    assert sum(map(len, rows)) > 0.9 * sum(map(len, wanted)), "those that were dealt with"
    assert sum(it.any() for it in labels) > 0.8 * len(labels)


def test_next_item_questions_skip_the_first_place(tmp_path: Path) -> None:
    """The first event with each item gives a question, that of the first of all visits does not."""
    what = small_shop()
    history = history_of(tmp_path / "log", what)
    since = int(history.timestamp[-1]) - int(DAYS * DAY)
    visits: dict[str, list[tuple[int, Event]]] = {}
    for offset, it in enumerate(what):
        if isinstance(it, Event) and it.item_id is not None:
            visit = visits.setdefault(it.session_id or "", [])
            if it.item_id not in [event.item_id for _, event in visit]:
                visit.append((offset, it))
    known = {rows[0][1].user_id: session for session, rows in reversed(visits.items())}
    wanted = sorted(
        (offset, event.timestamp, event.user_id, session, frozenset([event.item_id]))
        for session, rows in visits.items()
        if rows[0][1].timestamp >= since
        for offset, event in rows[known[rows[0][1].user_id] == session :]
    )
    found = asked_of(history, since)
    assert [(q.offset, q.at, q.subject, q.session_id, q.positives) for q in found] == wanted
    few = asked_of(history, since, replace(ALL, lists=10, seed=4))
    assert len(few) == 10
    assert [q for q in found if q in few] == few, "a sample, in order"
    assert few != asked_of(history, since, replace(ALL, lists=10, seed=5))


def test_questions_of_a_basket_want_all_that_is_left_of_it(tmp_path: Path) -> None:
    what = small_shop(tied=True)
    history = history_of(tmp_path / "log", what)
    for task in ("basket", "auto"):
        found = asked_of(history, 0, replace(ALL, task=task, lists=60))
        firsts = 0
        for question in found:
            basket: dict[str, int] = {}
            for offset, it in enumerate(what):
                if isinstance(it, Event) and it.session_id == question.session_id and it.item_id:
                    basket.setdefault(it.item_id, offset)
            firsts += question.offset == min(basket.values())
            left = {item for item, offset in basket.items() if offset >= question.offset}
            assert question.positives == left
        assert firsts == 30, "half of them"


@pytest.mark.slow
def test_earlier_lists_sample_their_negatives() -> None:
    """Earlier lists keep all positives and a sample of the others."""
    options = replace(ALL, validation=0.5, negatives=5)
    questions, features, labels = laid_out(small_shop(), options)
    _, whole, whole_labels = whole_shop()
    half = len(questions) // 2
    for number in range(len(questions)):
        # Only held-back lists have made-up intents.
        drawn, rows = (
            {row.tobytes() for row in np.delete(of[number], INTENDED, axis=1)}
            for of in (features, whole)
        )
        assert drawn <= rows
        assert labels[number].sum() == whole_labels[number].sum()
        others = (~labels[number]).sum()
        assert others == (5 if number < half else (~whole_labels[number]).sum())


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop whose first three quarters were learned from: its log and, in `models`, version 1."""
    directory = tmp_path_factory.mktemp("learned")
    shop = make_shop(0)
    what = entries(shop)
    options = TrainingOptions(label_days=20, lists=900, rounds=60, threads=1)
    with write_log(directory / "past", what[: len(what) - len(shop) + shop.cut]) as past:
        train(past, definitions(), version_directory(directory / "models", "1"), options)
    write_pointer(directory / "models", Pointer(version="1"))
    write_log(directory / "log", what).close()
    return directory


@pytest.mark.slow
def test_what_was_learned_beats_what_is_guessed(learned: Path) -> None:
    shop = make_shop(0)
    log = EmbeddedLog(learned / "log", read_only=True)
    engine = Engine(definitions(), MemoryState())
    settings = Settings(storage=StorageSettings(data=learned, models=learned / "models"))
    recommender = build(engine=engine, settings=settings)
    cards = {LEARNED: Scorecard(), HEURISTIC: Scorecard()}
    for ask in shop.asks[:250]:
        engine_at(engine, log, log.end - len(shop) + ask.before)
        recommender.refresh()
        for arm, card in cards.items():
            request = RecommendRequest(
                user_id=ask.person, session_id=ask.session_id, force={RANKING_EXPERIMENT: arm}
            )
            answer, _ = recommender.recommend(request, now=ask.at)
            card.add(ask.person, [item.item_id for item in answer.items], ask.taken)
    log.close()
    assert cards[LEARNED].ratio(cards[HEURISTIC], "ndcg20").low > 1.0


def test_a_training_writes_a_model_that_says_what_it_is(learned: Path) -> None:
    place = version_directory(learned / "models", "1")
    model = load_model(place, definitions=columns_fingerprint(definitions()))
    manifest = model.manifest
    shop = make_shop(0)
    assert manifest.features == RANKING_FEATURES
    about_items = [number for number in range(shop.cut) if shop.item[number] is not None]
    assert manifest.trained_until == shop.timestamp[about_items[-1]] + 1
    assert manifest.label == "add_to_cart"
    assert model.index.built_until == manifest.trained_until, "what serves knows everything"
    assert 20 < manifest.questions <= 900
    assert manifest.rows >= manifest.questions
    others = {f"{it}_{name}" for it in ("hr20", "ndcg20") for name in NAMES}
    others |= {f"discovery_{name}" for name in Discovery._fields}
    assert manifest.metrics["discovery_share"] == manifest.discovery
    assert set(manifest.metrics) == {"hr20", "ndcg20", "mrr20", "recall", *others}
    assert 0 < manifest.metrics["mrr20"] <= manifest.metrics["hr20"] <= manifest.metrics["recall"]
    assert set(manifest.gains) <= set(RANKING_FEATURES)
    assert list(manifest.gains.values()) == sorted(manifest.gains.values(), reverse=True)


@pytest.mark.slow
def test_the_same_log_gives_the_same_model_with_progress_and_pictures(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def note(*progress: Any) -> None:
        told.append(progress)

    options = TrainingOptions(label_days=20, rounds=5, lists=60, threads=1)
    with write_log(tmp_path / "log", small_shop()) as log:
        train(log, definitions(), tmp_path / "a", options)
        trained = train(log, definitions(), tmp_path / "b", options, progress=note)
        train(log, definitions(), tmp_path / "c", replace(options, seed=1))
    a, b, c = (read_manifest(tmp_path / name) for name in "abc")
    assert a == b
    assert (tmp_path / "a/model.ubj").read_bytes() == (tmp_path / "b/model.ubj").read_bytes()
    assert c.data_hash != a.data_hash
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == ["read", "index", "replay", "fit"]
    for stage in stages:
        seen = [done for name, done, _ in told if name == stage]
        assert seen == sorted(seen)
        assert seen[-1] == next(total for name, _, total in reversed(told) if name == stage)
    assert len(trained.curve) <= 5
    pictures = plot_training(trained, tmp_path / "figures")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures.values())


@pytest.mark.parametrize(
    ("keep", "label_days", "said"),
    [
        (lambda it: False, 8.0, "no event about a known item"),
        (lambda it: not isinstance(it, Item), 8.0, "no event about a known item"),
        (lambda it: True, 0.1, "look further back with --label-days"),
    ],
)
def test_too_little_to_learn_from_says_what_is_missing(
    tmp_path: Path, keep: Callable[[Entry], bool], label_days: float, said: str
) -> None:
    kept = [it for it in small_shop() if keep(it)]
    with write_log(tmp_path / "log", kept) as log, pytest.raises(ModelError, match=said):
        train(log, definitions(), tmp_path / "model", TrainingOptions(label_days=label_days))
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_nothing_taken_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = collect

    def blind(*arguments: Any, **named: Any) -> tuple[Rows, Rows]:
        learn, judge = (
            replace(rows, labels=np.zeros_like(rows.labels)) for rows in honest(*arguments, **named)
        )
        return learn, judge

    monkeypatch.setattr(training, "collect", blind)
    said = "recall found none of the taken items"
    with write_log(tmp_path / "log", small_shop()) as log, pytest.raises(ModelError, match=said):
        train(log, definitions(), tmp_path / "model", TrainingOptions(label_days=8))
