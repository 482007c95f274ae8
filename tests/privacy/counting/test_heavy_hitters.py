"""Frequent keys of an unknown domain: bounded, from a threshold on, released once."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tactful_privacy.analysis.conclusions import top_released
from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.heavy_hitters import BoundedKeys, KeysPublisher
from tactful_privacy.counting.released import delta_of, read_released, sum_released
from tactful_privacy.errors import BudgetError, LedgerError, ParameterError, StateError
from tactful_privacy.ledger.budget import Budget
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.odometer import read_odometer
from tactful_privacy.ledger.rows import found_values, stored_keys
from tactful_privacy.ledger.statistic import DAY_MS, FOUND_KEYS, Statistic

SECRET = b"a secret of tests only"
DELTA = Fraction(1, 10**6)
TERMS = Statistic("terms", (), DAY_MS, 3, Fraction(1), kind=FOUND_KEYS, delta=DELTA)


def makes_every_draw_zero(n: int) -> bytes:
    return bytes([0, 0x80] * (n // 2))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db", budgets=[Budget(Fraction(1), DELTA)])
    yield opened
    opened.close()


def counting(statistic: Statistic = TERMS) -> BoundedKeys:
    return BoundedKeys(statistic, secret=SECRET, start=0)


def test_keys_without_noise_equal_the_bounded_recount(ledger: Ledger) -> None:
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
    publisher = KeysPublisher(keys, ledger, entropy=makes_every_draw_zero)
    found = publisher.publish(2 * DAY_MS)
    for day, released in enumerate(found):
        counts = Counter(t for (d, _), mine in first.items() if d == day for t in mine)
        wanted = {term: n for term, n in counts.items() if n >= TERMS.threshold}
        assert released.values == wanted
        assert list(released.values.values()) == sorted(wanted.values(), reverse=True)
        assert 3 < len(wanted) < len(counts)
        assert (released.start, released.kind) == (day * DAY_MS, FOUND_KEYS)
        assert f"keys shown from {TERMS.threshold} on" in released.method
        assert (released.epsilon, released.delta, released.cap) == (Fraction(1), float(DELTA), 3)
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
    """10,000 such keys: shown with probability delta/3 each; two or more 1e-5, once for a seed."""
    keys = counting()
    for n in range(10_000):
        keys.add(f"u{n}", 0, f"the only {n}")
    publisher = KeysPublisher(keys, ledger, entropy=np.random.default_rng(3).bytes)
    (found,) = publisher.publish(DAY_MS)
    assert len(found.values) < 2


def test_a_day_is_released_once(ledger: Ledger) -> None:
    keys = counting()
    for n in range(60):
        keys.add(f"u{n}", 0, "tea")
    saved = keys.snapshot()
    (found,) = KeysPublisher(keys, ledger).publish(DAY_MS)
    again = counting()
    again.restore(saved)
    again.add("somebody", 5, "tea")
    publisher = KeysPublisher(again, ledger)
    assert publisher.publish(DAY_MS) == [found]
    assert publisher.publish(DAY_MS) == []
    assert read_released(ledger, "terms").panes == (found,)


def test_empty_days_are_released_and_late_ones_dropped(ledger: Ledger) -> None:
    keys = counting()
    assert keys.closed_until is None
    assert [it.values for it in KeysPublisher(keys, ledger).publish(2 * DAY_MS)] == [{}, {}]
    assert keys.closed_until == 2 * DAY_MS
    assert not keys.add("u", DAY_MS, "tea")
    assert not keys.add("u", 3 * DAY_MS, "tea", watermark=4 * DAY_MS)
    assert keys.add("u", 4 * DAY_MS, "tea", watermark=4 * DAY_MS)


def test_keys_beyond_the_budget_are_refused_first(ledger: Ledger, tmp_path: Path) -> None:
    """A statistic beyond the budget is refused before anything is counted."""
    with pytest.raises(BudgetError):
        KeysPublisher(counting(replace(TERMS, epsilon=Fraction(2))), ledger)
    without = Ledger(tmp_path / "other.db", daily_epsilon=1)
    with pytest.raises(BudgetError, match="delta"):
        KeysPublisher(counting(), without)
    without.close()
    KeysPublisher(counting(), ledger)
    assert read_odometer(ledger, today=0).spends[0].each_day == 1
    with pytest.raises(BudgetError):
        ledger.register(Statistic("another", ("a",), DAY_MS, 1, Fraction(1, 100)))


def test_a_day_that_the_ledger_cannot_store_stays(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = counting()
    for n in range(60):
        keys.add(f"u{n}", 0, "tea")
    publisher = KeysPublisher(keys, ledger, entropy=makes_every_draw_zero)

    def fail(*_: object, **__: object) -> None:
        raise LedgerError("full")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "release_many", fail)
        with pytest.raises(LedgerError):
            publisher.publish(DAY_MS)
    (found,) = publisher.publish(DAY_MS)
    assert "tea" in found.values


def test_nothing_is_concluded_from_keys_above_a_threshold(ledger: Ledger) -> None:
    keys = counting()
    for n in range(90):
        keys.add(f"u{n}", 0, "tea")
    panes = KeysPublisher(keys, ledger).publish(DAY_MS)
    for conclude in (sum_released, lambda it: top_released(it, 1)):
        with pytest.raises(ParameterError, match="threshold"):
            conclude(panes)


def test_stored_keys_come_back_and_damaged_ones_are_told() -> None:
    found = found_values(stored_keys({"b": 3, "a": 3, "grüße": 9}), "x")
    assert found == {"grüße": 9, "a": 3, "b": 3}
    with pytest.raises(LedgerError, match="damaged"):
        found_values(stored_keys({"a": 3})[:-1], "x")


def test_keys_of_odd_length_charge_nobody() -> None:
    keys = counting()
    assert not any(keys.add("u", 0, key) for key in ("", "x" * 129))
    assert [keys.add("u", 0, f"t{n}") for n in range(4)] == [True, True, True, False]


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(ParameterError, match="unit is empty"):
        counting().add("", 0, "tea")
    with pytest.raises(ParameterError, match="secret"):
        BoundedKeys(TERMS, secret=b"short", start=0)
    for wrong in (
        *({"name": ""}, {"cap": 0}, {"epsilon": 0}, {"delta": 0}, {"epsilon": 0.5}),
        *({"delta": None}, {"keys": ("a",)}, {"pane_ms": DAY_MS // 2}, {"hour_cap": 2}),
        *({"delta": Fraction(1, 10**30)}, {"cell_cap": 2}, {"kind": "panes"}),
    ):
        with pytest.raises(ParameterError):
            replace(TERMS, **wrong)
    assert Statistic.from_json(TERMS.to_json()) == TERMS
    assert delta_of(TERMS) == DELTA
    with pytest.raises(ParameterError, match="BoundedKeys"):
        BoundedCounts(TERMS, secret=SECRET, start=0)
    listed = Statistic("listed", ("a",), DAY_MS, 3, Fraction(1))
    with pytest.raises(ParameterError, match="BoundedCounts"):
        counting(listed)
    with pytest.raises(ParameterError, match="threshold"):
        _ = listed.threshold
    saved = counting().snapshot()
    for other in (
        counting(replace(TERMS, cap=4)),
        BoundedKeys(TERMS, secret=b"another secret of tests", start=0),
    ):
        with pytest.raises(StateError, match="caps are lost"):
            other.restore(saved)
    with pytest.raises(StateError):
        counting().restore(saved[:-1])
    with pytest.raises(StateError, match="check the clock"):
        counting().due(5_000 * DAY_MS)


def test_keys_of_an_erased_user_are_in_no_snapshot() -> None:
    """Those of others stay, and the user's later contributions are bounded as ever."""
    keys = counting()
    for user in ("user:ada", "user:bob"):
        for number in range(3):
            keys.add(user, 0, f"{user} {number}")
    keys.snapshot()
    keys.erase(["user:ada", "user:nobody"])
    assert keys.changed
    stored = keys.snapshot()
    assert b"ada" not in stored
    assert stored.count(b"user:bob") == 3
    assert [keys.add("user:ada", 0, f"later {number}") for number in range(4)] == [True] * 3 + [
        False
    ]
