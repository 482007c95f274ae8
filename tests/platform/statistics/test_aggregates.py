"""Published sums, means and distinct users, against recounts by hand; choice of the noise."""

from __future__ import annotations

import contextlib
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from msgspec import UNSET
from tests.platform.shop import DAY, HOUR
from tests.platform.support import Live, small_settings, wait_until

from tactful.config.privacy import StatisticsSettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.errors import ConfigError
from tactful.recommend.build import build
from tactful.schemas.statistics import ConclusionQuery
from tactful.server.platform import Platform
from tactful.statistics import counter
from tactful.statistics.counter import CLOCK_EVENT, StatisticsCounter
from tactful.statistics.definitions import StatisticDefinition, load_statistics
from tactful.statistics.service import PrivateStatistics, open_statistics, shown_before
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.errors import StateError as PrivateStateError
from tactful_privacy.ledger.budget import Budget
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import GAUSSIAN_PANES, PANES
from tactful_streaming.contract.log_entries import Event

MORNING = 1_767_225_600_000  # 2026-01-01, a Thursday
SECRET = b"a secret of tests only"
CAP = 2
SPENT = StatisticDefinition(
    name="spent",
    event="purchase",
    by="event.shop",
    keys=("a", "b"),
    aggregate="sum",
    of="event.price",
    bounds=(-2, 10.5),
    resolution="0.5",
    pane="1d",
    cap=CAP,
)


def spent(**changes: Any) -> StatisticDefinition:
    return msgspec.structs.replace(SPENT, **changes)


def buy(user: str, at: int, price: object, shop: str = "a") -> Event:
    properties: dict[str, Any] = {"shop": shop} | ({} if price is None else {"price": price})
    return Event(
        event_id=f"{user} {at}", type="purchase", timestamp=at, user_id=user, properties=properties
    )


def counting(ledger: Ledger, *wanted: StatisticDefinition) -> PrivateStatistics:
    return PrivateStatistics(StatisticsCounter(wanted, ledger, secret=SECRET, clock=None))


def published(counts: PrivateStatistics, events: Sequence[Event], until: int) -> None:
    """Count events, in the order of time, from the first morning on, and publish up to a time."""
    for at, event in [(MORNING, None), *((e.timestamp, e) for e in events), (until + HOUR, None)]:
        time = Event(event_id=f"t{at}", type=CLOCK_EVENT, timestamp=at, device_id="clock")
        for each in (time, event):
            if each is not None:
                counts.counter.apply(each, None)
        counts.counter.before_commit()


def cells(counts: PrivateStatistics, name: str) -> dict[tuple[int, str], Any]:
    return {
        (cell.pane_start, cell.key): cell
        for cell in counts.page(name, None, 1_000, None, None).cells
    }


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishes without noise."""
    zeros = partial(Publisher, entropy=lambda n: bytes([0, 0x80] * (n // 2)))
    monkeypatch.setattr(counter, "Publisher", zeros)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(tmp_path / "ledger.db", daily_epsilon=4)) as opened:
        yield opened


PRICES = st.one_of(
    st.floats(-20, 20),
    st.integers(-20, 20),
    st.sampled_from([0.25, 0.75, 10.25, math.inf, -math.inf, math.nan, True, "3", None, 10**400]),
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("uvw"), st.integers(0, 2 * DAY - 1), PRICES, st.sampled_from("abc")
        )
    )
)
@examples(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_sums_equal_a_clamped_recount(
    quiet: None,
    tmp_path_factory: pytest.TempPathFactory,
    purchases: list[tuple[str, int, Any, str]],
) -> None:
    """Each number is clamped, then rounded; the first ones of a user and day count."""
    purchases.sort(key=lambda purchase: purchase[1])
    recount: dict[tuple[int, str], Fraction] = defaultdict(Fraction)
    number: dict[tuple[int, str], int] = defaultdict(int)
    taken: dict[tuple[str, int], int] = defaultdict(int)
    for user, at, price, shop in purchases:
        is_number = type(price) in (int, float) and price == price
        if shop == "c" or not is_number or taken[user, at // DAY] == CAP:
            continue
        taken[user, at // DAY] += 1
        steps = 21 if price > 10.5 else -4 if price < -2 else round(Fraction(price) * 2)
        recount[MORNING + at // DAY * DAY, shop] += Fraction(steps, 2)
        number[MORNING + at // DAY * DAY, shop] += 1
    path = tmp_path_factory.mktemp("sums") / "ledger.db"
    with contextlib.closing(Ledger(path, daily_epsilon=4)) as ledger:
        counts = counting(ledger, SPENT, spent(name="mean", aggregate="mean"))
        events = [buy(u, MORNING + at, price, shop) for u, at, price, shop in purchases]
        published(counts, events, MORNING + 2 * DAY)
        for name, wanted in (("spent", recount), ("mean.sum", recount), ("mean.count", number)):
            found = {at: cell.value for at, cell in cells(counts, name).items()}
            assert len(found) == 4
            assert found == {at: wanted[at] for at in found}


def test_a_mean_is_the_quotient_of_sum_and_count(quiet: None, ledger: Ledger) -> None:
    """A mean costs what is declared, and is left out where noise exceeds its count."""
    mean = spent(name="mean", aggregate="mean", cap=1, bounds=(0, 10), resolution="1")
    counts = counting(ledger, mean)
    events = [buy(f"u{n}", MORNING + n, n % 5) for n in range(400)]
    published(counts, events, MORNING + DAY)
    (cell,) = cells(counts, "mean").values()
    assert (cell.key, cell.value) == ("a", 2)
    assert 1 < cell.low < 2 < cell.high < 3
    page = counts.page("mean", None, 10, None, None)
    assert (page.epsilon, page.kind, page.bounds, page.resolution) == (1, "means", [0, 10], 1)
    assert {charge.name: charge.loss.epsilon for charge in ledger.charges()} == {
        "mean.sum": Fraction(1, 2),
        "mean.count": Fraction(1, 2),
    }
    span = ConclusionQuery(since=MORNING, until=MORNING + DAY)
    concluded = counts.conclude("mean", "mean", span)
    assert (concluded.name, concluded.epsilon) == ("mean", 1)
    assert [(it.key, it.value, it.low) for it in concluded.results] == [
        ("a", 2, cell.low),
        ("b", None, None),
    ]
    for name, conclusion, said in (
        ("mean", "sum", "publishes means.* ask about mean.sum or mean.count"),
        ("mean.count", "mean", "publishes no mean"),
        ("mean.sum", "mean", "publishes no mean"),
        ("mean.sum", "quantile", "a quantile needs counts"),
    ):
        with pytest.raises(ValueError, match=said):
            counts.conclude(name, conclusion, span)
    below = {"name": "refunds", "cap": 1, "epsilon": "1"}
    with_refunds = counting(ledger, spent(**below))
    published(with_refunds, events, MORNING + DAY)
    with pytest.raises(ValueError, match="negative amounts: they have no share"):
        with_refunds.conclude("refunds", "share", msgspec.structs.replace(span, part="a", rest="b"))


def test_distinct_users_are_users(quiet: None, ledger: Ledger) -> None:
    """The aggregate is the same statistic as with count: users, under its own name."""
    day = {"aggregate": "count", "of": None, "bounds": None, "by": "any", "keys": (), "cap": 3}
    both = (
        spent(**day, name="x", count="users"),
        spent(**{**day, "aggregate": "distinct_users"}, name="y"),
    )
    counts = counting(ledger, *both)
    published(counts, [buy(f"u{n % 3}", MORNING + n, 1) for n in range(9)], MORNING + DAY)
    assert [cell.value for name in "xy" for cell in cells(counts, name).values()] == [3, 3]
    first, second = (definition.statistics()[0] for definition in both)
    assert replace(second, name="x") == first


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", ["distinct_users", "sum", "mean"])
def test_weeks_and_months(quiet: None, ledger: Ledger, aggregate: str) -> None:
    """A week and a month are shown once they are over; the begun ones at the start never are."""
    wanted: dict[str, Any] = {"aggregate": aggregate, "pane": None, "epsilon": "1"}
    if aggregate == "distinct_users":
        wanted |= {"of": None, "bounds": None}
    names: list[tuple[str, Any]] = [("weeks", "week"), ("months", "month"), ("days", "day")]
    definitions = [spent(name=name, period=period, **wanted) for name, period in names]
    counts = counting(ledger, *definitions)
    begins = MORNING + 4 * DAY  # Monday, 5 January; counting begins on the 1st
    events = [buy(f"u{n % 50}", begins + n * DAY // 100, 4) for n in range(2_600)]
    published(counts, events, MORNING + 31 * DAY)
    pages = {name: counts.page(name, None, 1_000, None, None) for name, _ in names}
    assert [pages[name].period for name, _ in names] == ["week", "month", UNSET]
    assert [pages[name].pane_ms for name, _ in names] == [7 * DAY, 0, DAY]
    found = {name: [c.value for c in pages[name].cells if c.key == "a"] for name, _ in names}
    starts = sorted({cell.pane_start for cell in pages["weeks"].cells})
    if aggregate != "mean":
        assert starts == [begins + n * 7 * DAY for n in range(3)], "29 December began before"
        assert [cell.pane_start for cell in pages["months"].cells] == [MORNING, MORNING]
        week, month = (50, 50) if aggregate == "distinct_users" else (7 * 400, 26 * 400)
        assert found["weeks"] == [week] * 3
        assert found["months"] == [month]
    else:
        assert found["weeks"] == [4] * 3
        assert found["months"] == [4]
    assert len(found["days"]) == (31 if aggregate != "mean" else 26)
    each = {"distinct_users": 1, "sum": 1, "mean": Fraction(1, 2)}[aggregate]
    assert {charge.loss.epsilon for charge in ledger.charges()} == {each}


def test_an_older_ledger_of_weeks_is_refused(tmp_path: Path) -> None:
    """A state that has released a week needs the ledger that holds it; a first week needs none."""
    weeks = spent(pane=None, period="week")
    stored: list[bytes] = []
    with contextlib.closing(Ledger(tmp_path / "ledger.db", daily_epsilon=4)) as ledger:
        counts = counting(ledger, weeks)
        for until in (8 * DAY, 11 * DAY):  # 9 and 12 January; the first whole week ends on the 12th
            published(counts, [], MORNING + until)
            stored.append(counts.counter._pack())
    with contextlib.closing(Ledger(tmp_path / "older.db", daily_epsilon=4)) as older:
        counting(older, weeks).counter.restore(stored[0])
        with pytest.raises(PrivateStateError, match="does not hold all releases"):
            counting(older, weeks).counter.restore(stored[1])


def test_weeks_are_shown_by_the_clock() -> None:
    (week,) = spent(pane=None, period="week").statistics()
    ends = MORNING + 11 * DAY  # Monday, 12 January
    for late, shown in ((74_999, False), (75_000, True)):
        assert (shown_before(week, ends + late) > ends - 7 * DAY) == shown


VISITS = {"aggregate": "distinct_users", "of": None, "bounds": None, "delta": "0.000001"}


@pytest.mark.parametrize(
    ("changes", "kind", "half_width"),
    [
        ({**VISITS, "cap": 8}, PANES, 24),
        ({**VISITS, "cap": 20}, GAUSSIAN_PANES, 40),
        ({**VISITS, "cap": 8, "noise": "gaussian"}, GAUSSIAN_PANES, 25),
        ({**VISITS, "cap": 20, "delta": None}, PANES, 60),
        ({"delta": "0.000001", "cap": 20}, PANES, 20 * 21 * 3),  # all in one cell
    ],
)
def test_the_narrower_noise_is_taken_and_charged(
    tmp_path: Path, changes: dict[str, Any], kind: str, half_width: int
) -> None:
    """Gaussian noise is taken where its 95 % interval is narrower; only then delta is charged."""
    budgets = [Budget(Fraction(1), Fraction(1, 10**6))]
    with contextlib.closing(Ledger(tmp_path / "ledger.db", budgets=budgets)) as ledger:
        counts = counting(ledger, spent(**changes))
        (charge,) = ledger.charges()
        assert charge.loss.epsilon == 1
        assert charge.loss.delta == (Fraction(1, 10**6) if kind == GAUSSIAN_PANES else 0)
        assert (charge.loss.rho is not None) == (kind == GAUSSIAN_PANES)
        published(counts, [], MORNING + DAY)
        page = counts.page("spent", None, 10, None, None)
        assert page.kind == kind
        assert (page.delta > 1e-9) == (kind == GAUSSIAN_PANES)
        scale = page.resolution or 1
        width = (page.cells[0].high - page.cells[0].low) / 2 / scale
        assert width == pytest.approx(half_width, rel=0.01)
        span = ConclusionQuery(since=MORNING, until=MORNING + DAY, keys="a,b")
        (summed,) = counts.conclude("spent", "sum", span).results
        assert summed.high is not None
        assert summed.low is not None
        assert 1.3 * width < (summed.high - summed.low) / 2 / scale < 1.6 * width


def test_gaussian_noise_needs_a_delta_in_the_budget(tmp_path: Path) -> None:
    wanted = {**VISITS, "cap": 20, "bounds": None}
    document = {"daily_epsilon": "1", "statistics": [msgspec.to_builtins(spent(**wanted))]}
    with pytest.raises(ConfigError, match="delta"):
        open_statistics(configured(tmp_path, document))
    allowed = {**document, "daily_delta": "0.000001"}
    opened = open_statistics(configured(tmp_path / "more", allowed))
    assert opened is not None
    opened.close()


def configured(directory: Path, document: dict[str, Any]) -> Settings:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "statistics.yaml"
    path.write_bytes(msgspec.json.encode(document))
    return Settings(
        storage=StorageSettings(data=directory / "data"),
        statistics=StatisticsSettings(definitions=path, clock="replay"),
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"of": None}, "a sum needs of"),
        ({"bounds": None}, "a sum needs of"),
        ({"bounds": (3, 3)}, "bounds are two rising numbers"),
        ({"bounds": (0, 0.75)}, "multiples of the resolution"),
        ({"bounds": (0, math.inf)}, r"bounds|Expected"),
        ({"resolution": "0"}, "above 0"),
        ({"of": "event.a b"}, r"statistics\[0\].of"),
        ({"of": "category"}, r"statistics\[0\].of"),
        ({"count": "users"}, "leave out count: users"),
        ({"running_total": "1"}, "a running_total counts events"),
        ({"aggregate": "median"}, r"statistics\[0\].aggregate"),
        ({"aggregate": "count"}, "of and bounds are for"),
        ({"aggregate": "mean", "periods": {"1d": "1"}, "pane": "1h"}, "a mean has no periods"),
        ({"aggregate": "mean", "delta": "0.001"}, "a mean has no periods"),
        ({**VISITS, "pane": "1h", "periods": {"1d": "1"}}, "not the sum of those of panes"),
        ({**VISITS, "running_total": "1"}, "not the sum of those of panes"),
        ({"trending": True, "by": "category"}, "trending needs counts"),
        ({"noise": "gaussian"}, "noise: gaussian needs a delta"),
        ({"noise": "laplace", "delta": "0.001"}, "noise: laplace has no delta"),
        ({"delta": "0"}, "delta is 0"),
        ({"cap_choice": {"candidates": [1, 2], "epsilon": "1"}, "delta": "0.001"}, "no delta"),
        ({"cap": 1_000}, "larger step"),
        ({"name": "a" * 127, "aggregate": "mean"}, "a name is"),
        ({"period": "week"}, "give pane or period"),
        ({"pane": None, "period": "year"}, r"statistics\[0\].period"),
        ({"pane": None, "period": "week", "periods": {"1d": "1"}}, "must be longer than the pane"),
        ({**VISITS, "pane": None, "period": "month", "trending": True}, "no trending"),
        (
            {"pane": None, "period": "week", "cap_choice": {"candidates": [2], "epsilon": "1"}},
            "no threshold_delta and no cap_choice",
        ),
    ],
)
def test_wrong_aggregates_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    wanted = {**msgspec.to_builtins(SPENT), **changes}
    document = {"daily_epsilon": "9", "daily_delta": "0.1", "statistics": [wanted]}
    with pytest.raises(ConfigError, match=said):
        open_statistics(configured(tmp_path, document))


def test_names_of_the_parts_of_a_mean_are_taken(tmp_path: Path) -> None:
    pair = [spent(name="m", aggregate="mean"), spent(name="m.sum")]
    document = {"daily_epsilon": "9", "statistics": [msgspec.to_builtins(it) for it in pair]}
    path = tmp_path / "statistics.yaml"
    path.write_bytes(msgspec.json.encode(document))
    with pytest.raises(ConfigError, match=r"given twice: m\.sum"):
        load_statistics(path)


@pytest.mark.slow
def test_aggregates_over_http(tmp_path: Path) -> None:
    """Index, cells, conclusions and refusals of a sum and a mean."""
    wanted = [SPENT, spent(name="mean", aggregate="mean", cap=1)]
    document = {"daily_epsilon": "2", "statistics": [msgspec.to_builtins(it) for it in wanted]}
    settings = configured(tmp_path, document)
    settings = replace(small_settings(tmp_path), statistics=settings.statistics)
    opened = open_statistics(settings)
    assert opened is not None
    platform = Platform.open(
        settings, build, consumers={"statistics": opened.counter}, statistics=opened
    )
    with contextlib.closing(opened), Live(platform) as live:
        draw = random.Random(1)
        events = [buy(f"u{n}", MORNING + n, draw.randint(0, 9)) for n in range(300)]
        clock = [
            Event(event_id=f"t{at}", type=CLOCK_EVENT, timestamp=at, device_id="clock")
            for at in (MORNING, MORNING + DAY + HOUR)
        ]
        for sent in ([clock[0], *events], [clock[1]]):
            body = [
                {k: v for k, v in msgspec.to_builtins(it).items() if v not in (None, {}, [])}
                for it in sent
            ]
            for event in body:
                event.pop("kind", None)
            assert live.http.post("/v1/events", json=body).json()["rejected"] == []
        parts = ("spent", "mean.sum", "mean.count")
        wait_until(
            lambda: all(len(opened.page(it, None, 10, None, None).cells) == 2 for it in parts)
        )
        index = {it["name"]: it for it in live.http.get("/v1/statistics").json()["statistics"]}
        assert index.keys() == {"spent", "mean", "mean.sum", "mean.count"}
        assert index["spent"]["bounds"] == [-2, 10.5]
        assert index["mean"]["method"] == "quotient of mean.sum and mean.count"
        page = live.http.get("/v1/statistics/spent").json()
        exact = sum(float(str(event.properties["price"])) for event in events)
        assert abs(page["cells"][0]["value"] - exact) < 21 * CAP * 20 / 2
        assert page["cells"][0]["value"] * 2 == int(page["cells"][0]["value"] * 2)
        (cell,) = live.http.get("/v1/statistics/mean").json()["cells"]
        assert cell["low"] <= exact / 300 <= cell["high"], "of a fixed draw this fails with 5 %"
        span = {"since": MORNING, "until": MORNING + DAY}
        for name, conclusion, status in (
            ("spent", "sum", 200),
            ("spent", "top", 200),
            ("mean", "mean", 200),
            ("mean", "sum", 400),
            ("spent", "quantile", 400),
            ("spent", "mean", 400),
            ("mean", "median", 404),
        ):
            answer = live.http.get(f"/v1/statistics/{name}/{conclusion}", params=span)
            assert answer.status_code == status, (name, conclusion, answer.text)
