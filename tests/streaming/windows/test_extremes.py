"""Extreme numbers and pauses: every value is right, by 60 digits, or absent."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.streaming.oracle import windows_of
from tests.streaming.streams import engine_of

from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.definitions.model import (
    Definitions,
    Feature,
    ForwardDecay,
    SessionWindow,
    Window,
)
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.triggers import WindowResult

MINUTE = 60_000
GREATEST = sys.float_info.max


def defined(*windows: str) -> Definitions:
    """Every aggregate that may overflow or lose its weight, over each window, also by item."""
    return load_definitions(
        "".join(
            f"- {{name: {aggregate}_{number}_{by}, entity: user, event: purchase, "
            f"aggregate: {aggregate}{', of: properties.price' * (aggregate != 'count')}, "
            f"{'group_by: item_id, ' * by}window: {window}}}\n"
            for number, window in enumerate(windows)
            for aggregate in ("count", "sum", *(["mean"] if "half_life" not in window else []))
            for by in (0, 1)
        )
    )


SHORT = "{size: 10m, slide: 1m}", "{size: 3h, step: 1h}", "{gap: 30m}"
READ = defined("{size: 1d, slide: 1m, decay: 0.5}", "{half_life: 1m}", *SHORT)
FIRED = defined("{size: 2h, slide: 1m, decay: 0.001}", *SHORT)  # 0.001 ** 108 is too small


class Amount(NamedTuple):
    """One event of the only user."""

    at: int
    item: str
    price: float


AMOUNTS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 1.0, 5e-324, -5e-324, 1e-300, 1e300, 1e308, -1e308, GREATEST, -GREATEST]),
)
PAUSES = st.sampled_from(
    [0, 1, MINUTE - 1, 10**12, *(MINUTE * n for n in (1, 30, 63, 64, 1075, 1439, 1440, 3000))]
)


@st.composite
def logs(draw: st.DrawFn) -> list[Amount]:
    at, log = 1_700_000_000_000, []
    for pause, item, price in draw(
        st.lists(st.tuples(PAUSES, st.sampled_from("ab"), AMOUNTS), min_size=1, max_size=8)
    ):
        at += pause
        log.append(Amount(at, item, price))
    return log


def records(log: Sequence[Amount]) -> list[tuple[int, bytes]]:
    return [
        (
            number,
            encode_entry(
                Event(
                    event_id=str(number),
                    type="purchase",
                    timestamp=amount.at,
                    user_id="u",
                    item_id=amount.item,
                    properties={"price": amount.price},
                )
            ),
        )
        for number, amount in enumerate(log)
    ]


def inside(f: Feature, rows: Sequence[Amount], at: int) -> Sequence[Amount]:
    """Events that a read at `at`, which is not before the newest, counts."""
    if not rows:
        return []
    if isinstance(f.window, ForwardDecay):
        return rows if at - rows[-1].at < 64 * f.window.half_life_ms else []
    if isinstance(f.window, SessionWindow):
        first = len(rows) - 1
        while first > 0 and rows[first].at - rows[first - 1].at <= f.window.gap_ms:
            first -= 1
        return rows[first:] if at - rows[-1].at < f.window.gap_ms else []
    start, end = windows_of(f, at)[0]
    return [row for row in rows if start <= row.at < end]


def weight(f: Feature, at: int, now: int) -> Decimal:
    if isinstance(f.window, ForwardDecay):
        return Decimal(2) ** (Decimal(at - now) / f.window.half_life_ms)
    if isinstance(f.window, Window):
        slide = f.window.slide_ms
        return Decimal(f.window.decay) ** (now // slide - at // slide)
    return Decimal(1)


def check(f: Feature, got: float | None, rows: Sequence[Amount], now: int) -> None:
    """Compare a value with the exact one of `rows`, all that count; None is absent."""
    if not rows:
        assert got == 0, f.name
        return
    weights = [weight(f, row.at, now) for row in rows]
    amounts = [Decimal(1 if f.aggregate == "count" else row.price) for row in rows]
    exact = sum((w * x for w, x in zip(weights, amounts, strict=True)), Decimal(0))
    size = sum((w * abs(x) for w, x in zip(weights, amounts, strict=True)), Decimal(0))
    if f.aggregate == "mean":
        exact, size = exact / sum(weights), size / sum(weights)
    if got is None:
        assert f.aggregate != "count" and sum(map(abs, amounts)) > GREATEST / 8, f.name
        return
    assert math.isfinite(got), f.name
    error = abs(Decimal(got) - exact)
    assert error <= Decimal("1e-9") * size + len(rows) * Decimal("5e-324"), (f.name, got, exact)


def by_group(log: Iterable[Amount]) -> dict[str, list[Amount]]:
    groups: dict[str, list[Amount]] = {}
    for row in log:
        groups.setdefault(row.item, []).append(row)
    return groups


def check_reads(engine: Engine, log: Sequence[Amount], at: int) -> None:
    read = engine.read("user", "u", at)
    late = engine.read_late("user", "u", at)
    assert dict(late) == read
    plain = [f for f in READ.features if f.group_by is None]
    columns = engine.read_columns("user", ["u"], [f.name for f in plain], at)[0].tolist()
    for f, number in zip(plain, columns, strict=True):
        got = read.get(f.name)
        assert isinstance(got, float | None)
        assert got == number or (got is None and math.isnan(number)), f.name
        check(f, got, inside(f, log, at), at)
    for f in READ.features:
        if f.group_by is not None:
            groups = read[f.name]
            assert isinstance(groups, dict)
            for item, rows in by_group(log).items():
                if counted := inside(f, rows, at):
                    check(f, groups.get(item), counted, at)
                else:
                    assert item not in groups


def check_rows(fired: Iterable[WindowResult], log: Sequence[Amount]) -> int:
    features = {f.name: f for f in FIRED.features}
    rows = 0
    for result in fired:
        f = features[result.feature]
        groups: Sequence[str | None] = result.groups or [None] * len(result.keys)
        for group, value in zip(groups, result.values, strict=True):
            of = [row for row in log if group in (None, row.item)]
            counted = [row for row in of if result.window_start <= row.at < result.window_end]
            assert value is not None, "no event was late"
            check(f, value, counted, result.window_end - 1)
            rows += 1
    return rows


NOW = 1_700_000_000_000
BOTH_SIGNS = [Amount(NOW, "a", GREATEST), Amount(NOW, "a", GREATEST)] + [
    Amount(NOW + MINUTE, "a", -GREATEST)
] * 2


@given(logs(), PAUSES, st.integers(1, 8))
@example([Amount(NOW, "a", 7.0)], 1075 * MINUTE, 8)
@example([Amount(NOW, "a", 7.0)], 1439 * MINUTE, 8)
@example([Amount(NOW, "a", 1e300), Amount(NOW + 1074 * MINUTE, "a", 5e-324)], 0, 1)
@example([Amount(NOW, "a", GREATEST)] * 2, MINUTE, 1)
@example(BOTH_SIGNS, 0, 8)
@example(BOTH_SIGNS, 3000 * MINUTE, 1)
@settings(max_examples=8, deadline=None)
def test_every_number_is_right_or_absent(log: list[Amount], pause: int, size: int) -> None:
    """Sums that overflow and weights that vanish give no wrong number, read or in a row."""
    store, fired = MemoryState(), list[WindowResult]()
    engine = engine_of(READ, store, allowed_lateness_ms=0)
    firing = engine_of(FIRED, allowed_lateness_ms=0, on_results=fired.extend)
    whole = records(log)
    for begin in range(0, len(log), size):
        engine.apply(whole[begin : begin + size])
        firing.apply(whole[begin : begin + size])
    at = log[-1].at + pause
    with localcontext(Context(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN)):
        for time in (log[-1].at, at):
            check_reads(engine, log, time)
        check_rows(fired, log)
    read = engine.read("user", "u", at)
    engine.commit()
    assert engine_of(READ, store, allowed_lateness_ms=0).read("user", "u", at) == read


@pytest.mark.parametrize("window", ["{size: 1h}", "{gap: 30m}"])
def test_a_row_too_large_is_left_out_and_a_late_one_withdrawn(window: str) -> None:
    """A window of two huge amounts has no row; one published before is withdrawn."""
    definitions: Definitions = load_definitions(
        "- {name: spend, entity: user, event: purchase, aggregate: sum, of: properties.price, "
        f"window: {window}}}"
    )

    def values(log: Sequence[Amount]) -> list[float | None]:
        fired: list[WindowResult] = []
        engine = engine_of(definitions, allowed_lateness_ms=120 * MINUTE, on_results=fired.extend)
        for record in records(log):
            engine.apply([record])
        return [value for result in fired for value in result.values]

    start = NOW // (60 * MINUTE) * 60 * MINUTE
    huge, later = Amount(start, "a", GREATEST), Amount(start + 61 * MINUTE, "a", 1.0)
    assert values([huge, later]) == [GREATEST]
    assert values([huge, huge, later]) == []
    assert values([huge, later, huge]) == [GREATEST, None]


def test_a_sum_beyond_a_double_comes_back() -> None:
    """An amount that overflowed is absent as long as its window, not for ever."""
    of: Callable[[int, float], Amount] = lambda minute, price: Amount(  # noqa: E731
        NOW + minute * MINUTE, "a", price
    )
    log = [of(0, GREATEST), of(0, GREATEST), of(5, 3.0), of(3000, 2.0)]
    engine = engine_of(READ, allowed_lateness_ms=0)
    engine.apply(records(log)[:3])
    names = {*(f"sum_{number}_0" for number in range(5)), "mean_2_0", "mean_3_0", "mean_4_0"}
    assert names - engine.read("user", "u", log[2].at).keys() == names
    assert engine.read("user", "u", log[0].at + 10 * MINUTE)["sum_2_0"] == 3.0
    engine.apply(records(log)[3:])
    read = engine.read("user", "u", log[3].at)
    assert {name: read[name] for name in names} == dict.fromkeys(names, 2.0)
