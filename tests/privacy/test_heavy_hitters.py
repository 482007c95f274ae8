"""Frequent keys of an unknown domain: bounded, from a threshold on, released once."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from tactful_privacy import Budget, BudgetError, Ledger, ParameterError, StateError
from tactful_privacy.heavy_hitters import BoundedKeys, Discovery, read_discovered
from tactful_privacy.statistic import DAY_MS

SECRET = b"a secret of tests only"
DELTA = Fraction(1, 10**6)
TERMS = Discovery("terms", 3, Fraction(1), DELTA)


def makes_every_draw_zero(n: int) -> bytes:
    return bytes([0, 0x80] * (n // 2))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db", budgets=[Budget(Fraction(1), DELTA)])
    yield opened
    opened.close()


def counting(discovery: Discovery = TERMS) -> BoundedKeys:
    return BoundedKeys(discovery, secret=SECRET, start=0)


def test_without_noise_it_is_the_bounded_recount_above_the_threshold(ledger: Ledger) -> None:
    """A user counts once for a key and for the first three keys of a day, through restarts."""
    rng = random.Random(1)
    terms = [f"term {n}" for n in range(30)]
    weights = [1 / (n + 1) for n in range(30)]
    keys = counting()
    first: dict[tuple[int, str], list[str]] = {}
    for n in range(6_000):
        who, term = f"u{rng.randrange(900)}", rng.choices(terms, weights)[0]
        time = n * 2 * DAY_MS // 6_000
        mine = first.setdefault((time // DAY_MS, who), [])
        if term not in mine and len(mine) < 3:
            mine.append(term)
        keys.add(who, time, term, watermark=time)
        if rng.random() < 0.005:
            saved = keys.snapshot()
            keys = counting()
            keys.restore(saved)
    found = keys.release(ledger, 2 * DAY_MS, entropy=makes_every_draw_zero)
    for day, released in enumerate(found):
        counts = Counter(t for (d, _), mine in first.items() if d == day for t in mine)
        wanted = {term: n for term, n in counts.items() if n >= TERMS.threshold}
        assert released.values == wanted
        assert list(released.values.values()) == sorted(wanted.values(), reverse=True)
        assert 3 < len(wanted) < len(counts)
        assert read_discovered(ledger, TERMS, day) == released
        assert (released.epsilon, released.delta, released.cap) == (Fraction(1), DELTA, 3)
    assert len(found) == 2


def test_removing_a_user_changes_no_more_than_the_cap() -> None:
    rng = random.Random(2)
    what = [(f"u{rng.randrange(20)}", f"t{rng.randrange(9)}") for _ in range(400)]

    def counts(without: str | None) -> Counter[str]:
        keys = counting()
        counted: Counter[str] = Counter()
        for n, (who, term) in enumerate(what):
            if who != without:
                counted[term] += keys.add(who, n, term)
        return counted

    every = counts(None)
    for who in {who for who, _ in what}:
        fewer = counts(who)
        changes = [every[term] - fewer[term] for term in every]
        assert sum(map(abs, changes)) <= TERMS.cap
        assert set(changes) <= {0, 1}


def test_a_key_of_one_person_is_hardly_ever_shown(ledger: Ledger) -> None:
    """10,000 such keys: shown with probability delta/3 each; two or more has probability 1e-5."""
    keys = counting()
    for n in range(10_000):
        keys.add(f"u{n}", 0, f"the only {n}")
    (found,) = keys.release(ledger, DAY_MS)
    assert len(found.values) < 2


def test_a_day_is_released_once(ledger: Ledger) -> None:
    keys = counting()
    for n in range(60):
        keys.add(f"u{n}", 0, "tea")
    saved = keys.snapshot()
    (found,) = keys.release(ledger, DAY_MS)
    again = counting()
    again.restore(saved)
    again.add("somebody", 5, "tea")
    assert again.release(ledger, DAY_MS) == [found]
    assert again.release(ledger, DAY_MS) == []


def test_empty_days_are_released_and_late_ones_dropped(ledger: Ledger) -> None:
    keys = counting()
    assert [it.values for it in keys.release(ledger, 2 * DAY_MS)] == [{}, {}]
    assert not keys.add("u", DAY_MS, "tea")
    assert not keys.add("u", 3 * DAY_MS, "tea", watermark=4 * DAY_MS)
    assert keys.add("u", 4 * DAY_MS, "tea", watermark=4 * DAY_MS)
    assert read_discovered(ledger, TERMS, 9) is None


def test_a_day_that_the_budget_does_not_allow_stays(ledger: Ledger, tmp_path: Path) -> None:
    keys = counting(replace(TERMS, epsilon=Fraction(2)))
    keys.add("u", 0, "tea")
    for _ in range(2):
        with pytest.raises(BudgetError):
            keys.release(ledger, DAY_MS)
    without = Ledger(tmp_path / "other.db", daily_epsilon=1)
    with pytest.raises(BudgetError, match="delta"):
        counting().release(without, DAY_MS)
    without.close()


@pytest.mark.parametrize("key", ["", "x" * 129])
def test_keys_of_odd_length_charge_nobody(key: str) -> None:
    keys = counting()
    assert not keys.add("u", 0, key)
    assert [keys.add("u", 0, f"t{n}") for n in range(4)] == [True, True, True, False]


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(ParameterError, match="unit is empty"):
        counting().add("", 0, "tea")
    with pytest.raises(ParameterError, match="secret"):
        BoundedKeys(TERMS, secret=b"short", start=0)
    for wrong in ({"name": ""}, {"cap": 0}, {"epsilon": 0}, {"delta": 0}, {"epsilon": 0.5}):
        with pytest.raises(ParameterError):
            replace(TERMS, **wrong)
    saved = counting().snapshot()
    for other in (
        counting(replace(TERMS, cap=4)),
        BoundedKeys(TERMS, secret=b"another secret of tests", start=0),
    ):
        with pytest.raises(StateError, match="caps are lost"):
            other.restore(saved)
    with pytest.raises(StateError):
        counting().restore(saved[:-1])
