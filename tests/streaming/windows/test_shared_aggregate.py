"""Every aggregate over every window, against one that stores all events."""

import random
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.streaming.naive_aggregates import FiredKey, Happening, Naive

from tactful_streaming.definitions.model import Feature, ForwardDecay
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.windows.columns import Selection
from tactful_streaming.windows.entity_table import EntityTable
from tactful_streaming.windows.pane_columns import PanedWindow, slide_of

MINUTE = 60_000
HOUR = 60 * MINUTE
START = 1_700_000_000_000 // HOUR * HOUR

AGGREGATES = {
    "count": "aggregate: count",
    "sum": "aggregate: sum, of: properties.price",
    "mean": "aggregate: mean, of: properties.price",
    "min": "aggregate: min, of: properties.price",
    "max": "aggregate: max, of: item.weight",
    "last": "aggregate: last, of: properties.price",
    "hll": "aggregate: distinct, of: item_id",
    "exact": "aggregate: distinct, of: item_id, sketch: exact",
    "top_k": "aggregate: top_k, of: item_id, n: 3",
    "quantile": "aggregate: quantile, of: properties.price, q: 0.7",
}
GROUPS = {
    "count": "aggregate: count, group_by: category, max_groups: 3",
    "sum": "aggregate: sum, of: properties.price, group_by: category",
    "mean": "aggregate: mean, of: properties.price, group_by: category, max_groups: 2",
    "min": "aggregate: min, of: properties.price, group_by: category",
    "max": "aggregate: max, of: item.weight, group_by: category",
}
WINDOWS = {
    "tumbling": "{size: 10m}",
    "hopping": "{size: 5m, slide: 1m}",
    "long": "{size: 30m, slide: 1m}",
    "cumulative": "{size: 20m, step: 5m}",
    "session": "{gap: 3m}",
    "approximate": "{size: 7m, tail: approximate}",
}
DECAYS = {"decayed": "{size: 10m, slide: 2m, decay: 0.7}", "halving": "{half_life: 4m}"}
LASTING = [
    "aggregate: last_n, of: item_id, n: 4",
    "aggregate: last_n, of: item_id, n: 4, window: {size: 4m}",
    "aggregate: last_n, of: category, n: 2",
    "aggregate: last_time",
    "aggregate: last_time, group_by: item_id, max_groups: 3",
]


def every_text(*, bounded: bool = True) -> list[str]:
    forms = [
        f"{aggregate}, window: {window}"
        for aggregate in [*AGGREGATES.values(), *GROUPS.values()]
        for window in WINDOWS.values()
    ]
    forms += [
        f"{table[name]}, window: {DECAYS[decay]}"
        for table in (AGGREGATES, GROUPS)
        for decay, names in (("decayed", ("count", "sum", "mean")), ("halving", ("count", "sum")))
        for name in names
    ]
    forms += LASTING
    types = ["view", "[view, click]", "[click, view]"]
    texts = [
        f"- {{name: f{number}, entity: user, event: {types[number % 3]}, {form}}}\n"
        for number, form in enumerate(forms)
    ]
    if not bounded:
        texts = [re.sub("max_groups: [23]", "max_groups: 99", text) for text in texts]
    return texts


def features_of(texts: Sequence[str]) -> tuple[Feature, ...]:
    return load_definitions("".join(texts)).features


def random_stream(rng: random.Random, count: int, keys: int = 4) -> list[Happening]:
    """Disordered, late, with jumps and silences; amounts whose sums are exact."""
    now, events = START, []
    for _ in range(count):
        now += rng.choice([0, rng.randrange(5_000), rng.randrange(40_000)])
        if rng.random() < 0.02:
            now += rng.randrange(40 * MINUTE)
        delay = rng.choice([0, 0, rng.randrange(MINUTE), rng.randrange(20 * MINUTE)])
        sources: dict[str, Any] = {
            "item_id": f"i{rng.randrange(8)}",
            "category": rng.choice("abcde") if rng.random() < 0.9 else None,
            "properties.price": rng.randrange(-20, 80) / 4 if rng.random() < 0.9 else None,
            "item.weight": float(rng.randrange(100)),
        }
        type_ = rng.choice(["view", "click", "leave"])
        events.append(Happening(type_, f"u{rng.randrange(keys)}", now - delay, sources))
    return events


class Driver:
    """Feeds a table as the engine does."""

    def __init__(
        self,
        features: Sequence[Feature],
        lateness: int = 0,
        *,
        emits: bool = False,
        stored: dict[str, bytes] | None = None,
    ) -> None:
        self.features, self.lateness, self.emits = features, lateness, emits
        self.stored = stored
        self.watermark, self.late = 0, 0
        self.fired: dict[FiredKey, Any] = {}
        self.table = self._make()

    def _make(self) -> EntityTable:
        stored = self.stored
        return EntityTable(
            self.features,
            None if stored is None else lambda keys: [stored.get(key) for key in keys],
            capacity=2,
            emits=self.emits,
            allowed_lateness_ms=self.lateness,
        )

    @property
    def horizon(self) -> int:
        return self.watermark - self.lateness

    def apply(self, events: Sequence[Happening], watermarks: Sequence[int]) -> None:
        """Apply a batch, split at window ends."""
        start = 0
        while start < len(events):
            end = len(events)
            border = self._border()
            if border is not None:
                over = (n + 1 for n in range(start, end) if watermarks[n] >= border)
                end = next(over, end)
            self._apply(events[start:end], watermarks[start:end])
            start = end

    def _border(self) -> int | None:
        """Next watermark at which windows of panes can end, or can change no more."""
        windows = [feature.window for feature in self.features if self.emits]
        slides = {slide_of(window) for window in windows if isinstance(window, PanedWindow)}
        pairs = [(slide, after) for slide in slides for after in (0, self.lateness)]
        ends = (((self.watermark - after) // slide + 1) * slide + after for slide, after in pairs)
        return min(ends, default=None)

    def commit(self) -> None:
        assert self.stored is not None
        for key, blob in self.table.pack_changes(self.horizon).items():
            if blob is None:
                self.stored.pop(key, None)
            else:
                self.stored[key] = blob

    def reopen(self, *, lazily: bool) -> None:
        """Commit, and go on with a new table that has all entities, or none yet."""
        self.commit()
        assert self.stored is not None
        self.table = self._make()
        if not lazily:
            self.table.unpack(self.stored.items())

    def _apply(self, events: Sequence[Happening], watermarks: Sequence[int]) -> None:
        timestamps = np.array([event.timestamp for event in events], np.int64)
        before = np.array([self.watermark, *watermarks[:-1]], np.int64)
        rows = self.table.touch([event.key for event in events], timestamps)
        for number, store in enumerate(self.table.aggregates):
            source = store.source
            chosen = [
                n
                for n, event in enumerate(events)
                if event.type in source.events
                and (source.amounts is None or event.sources[source.amounts] is not None)
                and (source.texts is None or event.sources[source.texts] is not None)
            ]
            if not chosen:
                continue
            take = [events[n].sources for n in chosen]
            amounts = None
            if source.amounts is not None:
                amounts = np.array([sources[source.amounts] for sources in take], np.float64)
            texts = [sources[source.texts] for sources in take] if source.texts else None
            columns = rows[chosen], timestamps[chosen], before[chosen], amounts, texts
            outcome = self.table.apply(number, Selection(*columns))
            self.late += sum(map(len, outcome.late_by.values()))
        for fired in self.table.emit(self.watermark, watermarks[-1]):
            groups: Sequence[str | None] = fired.groups or [None] * len(fired.keys)
            for key, group, value in zip(fired.keys, groups, fired.values, strict=True):
                place = (fired.feature, key, group, fired.window_start, fired.window_end)
                self.fired[place] = value
        self.watermark = watermarks[-1]
        self.table.expire(self.horizon)


def watermarks_of(events: Sequence[Happening], delay: int) -> list[int]:
    newest, found = 0, []
    for event in events:
        newest = max(newest, event.timestamp)
        found.append(newest - delay)
    return found


def same(feature: Feature, expected: Any, found: Any) -> bool:
    """Assert equality: small sketches are exact, forward decay rounds."""
    if feature.sketch == "hll":
        return bool(found == pytest.approx(expected, rel=1e-3))
    if isinstance(feature.window, ForwardDecay):
        return bool(found == pytest.approx(expected, rel=1e-12))
    return bool(found == expected)


def compare(driver: Driver, naive: Naive, at: int, keys: int = 4) -> None:
    for key in [f"u{n}" for n in range(keys)]:
        read = driver.table.read(key, at)
        for feature in naive.features:
            expected = naive.read(feature, key, at)
            assert same(feature, expected, read[feature.name]), (feature, key, at)
    lists = ("last_n", "top_k")
    numbers = [f for f in naive.features if f.group_by is None and f.aggregate not in lists]
    names = [f"u{n}" for n in range(keys)] + ["nobody"]
    columns = driver.table.read_columns(names, [f.name for f in numbers], at)
    for column, feature in zip(columns.T, numbers, strict=True):
        for key, value in zip(names, column.tolist(), strict=True):
            assert same(feature, naive.read(feature, key, at), value), (feature, key, at)


def cuts_of(rng: random.Random, count: int) -> list[tuple[int, int]]:
    borders = sorted({0, count, *(rng.randrange(count) for _ in range(rng.choice([1, 5, 40])))})
    return list(pairwise(borders))


def check(seed: int, texts: Sequence[str], lateness: int, delay: int, count: int = 300) -> None:
    """A stream in random batches, read now and then, equals brute force."""
    rng = random.Random(seed)
    features = features_of(texts)
    events = random_stream(rng, count)
    watermarks = watermarks_of(events, delay)
    naive, driver = Naive(features, lateness), Driver(features, lateness)
    for start, end in cuts_of(rng, count):
        driver.apply(events[start:end], watermarks[start:end])
        for event, watermark in zip(events[start:end], watermarks[start:end], strict=True):
            naive.apply(event, watermark)
        newest = max(event.timestamp for event in events[:end])
        if rng.random() < 0.3:
            compare(driver, naive, newest + rng.choice([0, 1, MINUTE, 20 * MINUTE]))
    assert naive.late == driver.late
    compare(driver, naive, newest)
    compare(driver, naive, newest + rng.randrange(30 * MINUTE))


@pytest.mark.slow
@pytest.mark.parametrize("lateness", [0, 4 * MINUTE])
def test_all_of_them_at_once(lateness: int) -> None:
    check(1, every_text(), lateness, delay=10_000, count=500)


@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(every_text()), min_size=1, max_size=6, unique=True),
    st.sampled_from([0, 1, 90_000, 15 * MINUTE]),
    st.sampled_from([0, 30_000]),
)
@settings(max_examples=30, deadline=None)
def test_any_of_them(seed: int, texts: list[str], lateness: int, delay: int) -> None:
    check(seed, texts, lateness, delay)


@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(every_text()), min_size=1, max_size=6, unique=True),
    st.sampled_from([0, 90_000]),
)
@settings(max_examples=30, deadline=None)
@example(634, [next(text for text in every_text() if "max_groups: 3" in text)], 0)
@example(14, [next(text for text in every_text() if "max_groups: 3, window: {gap" in text)], 0)
def test_commits_restarts_spills_and_merges_change_nothing(
    seed: int, texts: list[str], lateness: int
) -> None:
    check_changes(seed, texts, lateness)


@pytest.mark.slow
def test_bounded_groups_merge_over_many_streams() -> None:
    bounded = [text for text in every_text() if "max_groups" in text]
    for seed in range(300):
        texts = bounded[:6] if seed % 2 else [bounded[seed // 2 % len(bounded)]]
        check_changes(seed, texts, [0, 90_000][seed % 3 == 0], merges=0.3)


def check_changes(seed: int, texts: list[str], lateness: int, merges: float = 0.1) -> None:
    """Commits, restarts, spills and one merge at random, against brute force."""
    rng = random.Random(seed)
    features = features_of(texts)
    events = random_stream(rng, 300)
    watermarks = watermarks_of(events, 10_000)
    naive, driver = Naive(features, lateness), Driver(features, lateness, stored={})
    alias: dict[str, str] = {}
    for start, end in cuts_of(rng, 300):
        part = [e._replace(key=alias.get(e.key, e.key)) for e in events[start:end]]
        driver.apply(part, watermarks[start:end])
        for event, watermark in zip(part, watermarks[start:end], strict=True):
            naive.apply(event, watermark)
        chance = rng.random()
        if chance < 0.4:
            driver.commit()
        if 0.2 < chance < 0.6:
            driver.table.shrink(rng.choice([0, driver.table.nbytes // 2]))
        if chance > 0.7:
            driver.reopen(lazily=rng.random() < 0.5)
        if rng.random() < merges and not alias:
            driver.table.merge("u0", "u1")
            naive.merge("u0", "u1")
            alias["u0"] = "u1"
        if rng.random() < 0.3:
            compare(driver, naive, max(event.timestamp for event in events[:end]))
    compare(driver, naive, max(event.timestamp for event in events))


def check_fired(seed: int, texts: Sequence[str], lateness: int, delay: int) -> int:
    rng = random.Random(seed)
    features = features_of(texts)
    events = random_stream(rng, 300)
    end = max(event.timestamp for event in events) + 200 * MINUTE
    events.append(Happening("leave", "u0", end, events[0].sources))
    watermarks = watermarks_of(events, delay)
    stored: dict[str, bytes] = {}
    naive = Naive(features, lateness)
    driver = Driver(features, lateness, emits=True, stored=stored)
    for start, end in cuts_of(rng, len(events)):
        driver.apply(events[start:end], watermarks[start:end])
        for event, watermark in zip(events[start:end], watermarks[start:end], strict=True):
            naive.apply(event, watermark)
        if rng.random() < 0.3:
            driver.reopen(lazily=False)
        if rng.random() < 0.3:
            driver.commit()
            driver.table.shrink(driver.table.nbytes // 2)
    by_name = {feature.name: feature for feature in features}
    assert naive.fired.keys() == driver.fired.keys()
    for place, expected in naive.fired.items():
        assert same(by_name[place[0]], expected, driver.fired[place]), place
    assert naive.late == driver.late
    assert driver.table.next_pending(driver.watermark) is None
    return len(naive.fired)


@pytest.mark.slow
def test_all_windows_are_emitted() -> None:
    assert check_fired(1, every_text(), 0, 10_000) > 5000


@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(every_text(bounded=False)), min_size=1, max_size=6, unique=True),
    st.sampled_from([0, 1, 90_000, 15 * MINUTE]),
    st.sampled_from([0, 30_000]),
)
@settings(max_examples=30, deadline=None)
def test_windows_are_emitted_at_their_end_and_after_changes(
    seed: int, texts: list[str], lateness: int, delay: int
) -> None:
    check_fired(seed, texts, lateness, delay)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_many_at_once_over_longer_streams(seed: int) -> None:
    rng = random.Random(seed)
    lateness, delay = rng.choice([0, 1, 90_000, 15 * MINUTE]), rng.choice([0, 30_000])
    check(seed, rng.sample(every_text(), 12), lateness, delay, count=800)
    check_fired(seed, rng.sample(every_text(bounded=False), 12), lateness, delay)
    check_fired(seed, rng.sample(every_text(), 12), 0, delay)


def test_features_of_one_source_share_panes() -> None:
    texts = [
        "- {name: a, entity: user, event: view, aggregate: count, window: {size: 5m, slide: 1m}}\n",
        "- {name: b, entity: user, event: view, aggregate: count, window: {size: 1h, slide: 1m}}\n",
        "- {name: c, entity: user, event: view, aggregate: count, window: {size: 1d, slide: 1h}}\n",
        "- {name: d, entity: user, event: view, aggregate: count, window: {size: 9m, step: 1m}}\n",
        "- {name: e, entity: user, event: click, aggregate: count, window: {size: 1d}}\n",
    ]
    table = EntityTable(features_of(texts))
    assert ["".join(f.name for f in store.features) for store in table.aggregates] == ["abcd", "e"]
    keys = {feature.name: set(EntityTable([feature]).spans) for feature in table.features}
    assert keys["a"] == keys["b"] == keys["d"] != keys["c"]
    assert sorted(span or 0 for span in table.spans.values()) == [HOUR, 24 * HOUR, 24 * HOUR]


def packed(
    texts: Sequence[str], events: Sequence[Happening], watermarks: Sequence[int]
) -> Mapping[str, bytes]:
    driver = Driver(features_of(texts), stored={})
    driver.apply(events, watermarks)
    driver.commit()
    assert driver.stored is not None
    return driver.stored


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_features_come_and_go_and_the_others_stay_readable(seed: int) -> None:
    rng = random.Random(seed)
    texts = rng.sample(every_text(), 12)
    events = random_stream(rng, 300)
    watermarks = watermarks_of(events, 0)
    naive = Naive(features_of(texts))
    for event, watermark in zip(events, watermarks, strict=True):
        naive.apply(event, watermark)
    at = max(event.timestamp for event in events)
    kept = texts[:6]
    table = EntityTable(features_of([*kept, *texts[8:]]))
    old = EntityTable(features_of(texts[:8]))
    table.unpack(packed(texts[:8], events, watermarks).items())
    missing = table.spans.keys() - old.spans.keys()
    for feature in naive.features:
        if feature.name not in {f.name for f in table.features}:
            continue
        keys = EntityTable([feature]).spans.keys()
        for key in ["u0", "u1", "u2", "u3"]:
            value = table.read(key, at)[feature.name]
            if missing.isdisjoint(keys) and feature in features_of(kept):
                assert same(feature, naive.read(feature, key, at), value)
            elif missing.issuperset(keys):
                assert value in (0.0, {}, [])
