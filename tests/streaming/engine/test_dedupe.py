import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.engine import dedupe as dedupe_module
from tactful_streaming.engine.dedupe import Deduplicator, IdFilter
from tactful_streaming.state.store import MemoryState

DAY = 86_400_000


@given(st.lists(st.text(max_size=5)), st.lists(st.text(max_size=5)))
def test_a_filter_misses_nothing_that_it_holds(held: list[str], others: list[str]) -> None:
    ids = IdFilter(max(len(held), 1))
    ids.add(held)
    assert ids.maybe(held) == held
    assert set(ids.maybe(others)) >= set(others) & set(held)


def test_a_full_filter_seldom_takes_a_new_id_for_an_old_one() -> None:
    ids = IdFilter(20_000)
    ids.add([f"old-{n}" for n in range(20_000)])
    assert len(ids.maybe([f"new-{n}" for n in range(100_000)])) < 500


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_every_id_is_known_whatever_the_filter_has_seen(seed: int) -> None:
    """A dictionary agrees, through commits, restarts, filter growth and expiry."""
    rng = random.Random(seed)
    store, days = MemoryState(), rng.choice([1, 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedupe_module, "_FIRST_CAPACITY", 16)
        patch.setattr(dedupe_module, "_FILL", rng.choice([1, 10, 1000]))
        ids, applied, committed = Deduplicator(store, days), dict[str, int](), dict[str, int]()
        watermark = 0
        for step in range(150):
            watermark += rng.choice([0, 0, DAY // 4])
            oldest = watermark // DAY - days
            batch = list({f"{rng.randrange(400)}": None for _ in range(rng.randrange(1, 20))})
            found = ids.seen_many(batch)
            for event_id in batch:
                new = applied.get(event_id, -1) < oldest or event_id not in applied
                assert ids.is_new(event_id, found, watermark) == new
                assert ids.seen(event_id, watermark) != new
                if new:
                    ids.remember(event_id, watermark)
                    applied[event_id] = watermark // DAY
            if rng.random() < 0.5:
                store.write(list(ids.changes(step, watermark)))
                ids.mark_committed()
                committed = dict(applied)
            if rng.random() < 0.1:
                ids, applied = Deduplicator(store, days), dict(committed)


def test_without_commits_only_the_latest_ids_are_remembered() -> None:
    """A replay never commits: 250,000 ids took 50 MB, and ten million two gigabytes."""
    ids = Deduplicator(MemoryState(), 7, most=100)
    for begin in range(0, 10_000, 50):
        batch = [str(number) for number in range(begin, begin + 50)]
        assert not ids.seen_many(batch)
        ids.remember_many(batch, np.full(50, DAY))
    assert len(ids._recent) <= 250
    latest = [str(number) for number in range(9_900, 10_000)]
    assert set(ids.seen_many(latest)) == {*latest}
