"""Private statistics riding with the engine: bounded, released once, the same through crashes."""

from __future__ import annotations

import contextlib
import itertools
import random
import stat
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from msgspec.structs import replace as replaced
from tests.platform.shop import DAY, HOUR, definitions, entries, make_shop
from tests.platform.support import Live, small_settings, wait_until
from tests.streaming.brokers import topic_name

from tactful.config.engine import EngineSettings
from tactful.config.privacy import StatisticsSettings
from tactful.config.settings import Settings
from tactful.config.storage import LogSettings, StorageSettings
from tactful.errors import ConfigError
from tactful.recommend.build import build
from tactful.schemas.statistics import ConclusionQuery, StatisticsPage
from tactful.server.platform import Platform
from tactful.statistics import counter, service
from tactful.statistics.counter import CLOCK_EVENT, StatisticsCounter
from tactful.statistics.definitions import EVERYTHING, StatisticDefinition, load_statistics
from tactful.statistics.export import publish
from tactful.statistics.service import PrivateStatistics, open_statistics
from tactful.util import clock
from tactful_privacy.counting.heavy_hitters import KeysPublisher
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.errors import BudgetError, LedgerError
from tactful_privacy.errors import StateError as PrivateStateError
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import Statistic
from tactful_streaming.contract.log_entries import (
    BROWSER,
    SERVER,
    Entry,
    Event,
    Item,
    encode_entry,
)
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.errors import StateError
from tactful_streaming.rules.rules import load_rules
from tactful_streaming.state.store import MemoryState, RocksState, StateStore

SECRET = b"a secret of tests only"
CLOCKS = {
    name: getattr(time, name) for name in ("clock_gettime", "CLOCK_BOOTTIME", "CLOCK_MONOTONIC")
}
FAMILIES = ("family-0", "family-1", "family-2")
MONDAY = 1_700_438_400_000
MORNING = MONDAY - MONDAY % DAY + DAY
LINES = StatisticDefinition(
    name="lines", event="add_to_cart", by="properties.family", keys=FAMILIES, cap=5
)


def lines(**changes: Any) -> StatisticDefinition:
    return msgspec.structs.replace(LINES, **changes)


ITEM = Item(item_id="x", timestamp=0, properties={"family": "family-0"})


def cart(number: object, at: int, **changes: Any) -> Event:
    """An event that LINES counts under the family of ITEM."""
    fields: dict[str, Any] = {"user_id": "u", "item_id": "x", **changes}
    return Event(event_id=str(number), type="add_to_cart", timestamp=at, **fields)


def makes_every_draw_zero(n: int) -> bytes:
    return bytes([0, 0x80] * (n // 2))


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishes without noise, so that what was counted can be seen."""
    for publisher in (Publisher, KeysPublisher):
        quiet = partial(publisher, entropy=makes_every_draw_zero)
        monkeypatch.setattr(counter, publisher.__name__, quiet)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db", daily_epsilon=2)
    yield opened
    opened.close()


def counting(
    ledger: Ledger, *wanted: StatisticDefinition, clock: Callable[[], int] | None = None
) -> PrivateStatistics:
    counter = StatisticsCounter(wanted or (LINES,), ledger, secret=SECRET, clock=clock)
    return PrivateStatistics(counter)


def committed(counts: PrivateStatistics) -> bytes | None:
    """The state that a commit would store."""
    counts.counter.before_commit()
    return counts.counter.snapshot()


@contextlib.contextmanager
def served(settings: Settings) -> Iterator[tuple[Live, PrivateStatistics]]:
    """A server with the statistics of its settings."""
    opened = open_statistics(settings)
    assert opened is not None
    platform = Platform.open(
        settings, build, consumers={"statistics": opened.counter}, statistics=opened
    )
    with contextlib.closing(opened), Live(platform) as live:
        yield live, opened


def wire(entry: Entry) -> dict[str, Any]:
    """An entry as a client sends it."""
    fields = msgspec.to_builtins(entry)
    return {k: v for k, v in fields.items() if k != "kind" and v not in (None, {}, [])}


def engine_with(counts: PrivateStatistics, store: StateStore | None = None) -> Engine:
    options = EngineOptions(consumers={"statistics": counts.counter})
    return Engine(definitions(), store or MemoryState(), options)


def tick(at: int) -> Event:
    return Event(event_id=f"tick-{at}", type=CLOCK_EVENT, timestamp=at, device_id="clock")


def ticking(what: Sequence[Entry]) -> list[Entry]:
    """The entries with a clock event at every hour, and two days of silence at the end."""
    told: list[Entry] = []
    hour = 0
    for entry in what:
        if isinstance(entry, Event):
            now = entry.timestamp // HOUR
            told += [tick(it * HOUR) for it in range(hour + 1 if hour else now, now + 1)]
            hour = now
        told.append(entry)
    return [*told, *(tick((hour + 1 + later) * HOUR) for later in range(48))]


SHOP = ticking(entries(make_shop(11, people=12, items=40, days=6, guests=True)))
CATEGORY = {it.item_id: it.properties.get("family") for it in SHOP if isinstance(it, Item)}


def recount(what: Sequence[Entry], cap: int) -> dict[int, dict[str, int]]:
    """Panes by hand: of every person and day the first `cap` count; every hour is there."""
    spent: Counter[tuple[str | None, int]] = Counter()
    panes: dict[int, Counter[str]] = defaultdict(Counter)
    ticks = [it.timestamp for it in what if isinstance(it, Event) and it.type == CLOCK_EVENT]
    for entry in what:
        if not isinstance(entry, Event) or entry.type != "add_to_cart":
            continue
        unit = (entry.user_id or entry.device_id, entry.timestamp // DAY)
        if spent[unit] < cap:
            spent[unit] += 1
            panes[entry.timestamp // HOUR * HOUR][str(CATEGORY[entry.item_id or ""])] += 1
    # A pane stays open for a minute after its end, so the last tick closes the one before its own.
    return {
        start: {key: panes[start][key] for key in FAMILIES}
        for start in range(min(ticks), max(ticks) - HOUR, HOUR)
    }


def pages(counts: PrivateStatistics, name: str, limit: int) -> Iterator[StatisticsPage]:
    page = counts.page(name, None, limit, None, None)
    yield page
    while page.next_cursor is not None:
        page = counts.page(name, page.next_cursor, limit, None, None)
        yield page


def released(counts: PrivateStatistics, name: str = "lines") -> dict[int, dict[str, int]]:
    panes: dict[int, dict[str, int]] = defaultdict(dict)
    for cell in (cell for page in pages(counts, name, 1000) for cell in page.cells):
        assert cell.key not in panes[cell.pane_start], "a cell is released once"
        panes[cell.pane_start][cell.key] = int(cell.value)
    return dict(panes)


def run(engine: Engine, what: Sequence[Entry], seed: int) -> None:
    """Apply everything from the engine's offset on, committing now and then and at the end."""
    draw = random.Random(seed)
    while engine.offset < len(what):
        end = min(len(what), engine.offset + draw.randint(1, 120))
        engine.apply([(n, encode_entry(what[n])) for n in range(engine.offset, end)])
        if draw.random() < 0.5:
            engine.commit()
    engine.commit()


@pytest.fixture(scope="module")
def concluding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateStatistics]:
    """Panes, days and running totals of the whole shop, for tests that only read them."""
    path = tmp_path_factory.mktemp("concluding") / "ledger.db"
    wanted = lines(epsilon="1/2", periods={"1d": "1/2"}, running_total="1/2")
    with contextlib.closing(Ledger(path, daily_epsilon=2)) as ledger:
        counts = counting(ledger, wanted)
        run(engine_with(counts), SHOP, 0)
        yield counts


def run_and_die(engine: Engine, draw: random.Random, parts: int) -> None:
    """Apply at most a `parts`-th of the log; close without a commit of the last entries."""
    stop = min(len(SHOP), engine.offset + draw.randint(1, len(SHOP) // parts))
    while engine.offset < stop:
        end = min(stop, engine.offset + draw.randint(1, 60))
        engine.apply([(n, encode_entry(SHOP[n])) for n in range(engine.offset, end)])
        if draw.random() < 0.4:
            engine.commit()
    engine.close()


# What is counted


@pytest.mark.parametrize("cap", [1, 3, 1000])
def test_panes_equal_a_bounded_recount(quiet: None, ledger: Ledger, cap: int) -> None:
    counts = counting(ledger, lines(cap=cap))
    run(engine_with(counts), SHOP, cap)
    assert released(counts) == recount(SHOP, cap)


def counted(path: Path, what: Sequence[Entry], rules: str = "[]", **changes: Any) -> int:
    """Return the published sum of an hour without noise."""
    cleaner = load_rules(rules)
    with contextlib.closing(Ledger(path, daily_epsilon=2)) as ledger:
        counts = counting(ledger, lines(**changes))
        options = EngineOptions(
            consumers={"statistics": counts.counter},
            cleaner=cleaner,
            memoryless=cleaner.without_memory(),
        )
        engine = Engine(definitions(), MemoryState(), options)
        run(engine, [ITEM, tick(MORNING), *what, tick(MORNING + 2 * HOUR)], 0)
        return sum(released(counts)[MORNING].values())


@pytest.mark.parametrize("sender", [BROWSER, SERVER])
def test_guessed_event_ids(quiet: None, tmp_path: Path, sender: str) -> None:
    """One person who sends the ids of all others moves a cell by their own cap only."""
    others = [cart(n, MORNING, user_id=f"u{n}", device_id="d", sender=SERVER) for n in range(60)]
    attack = [cart(n, MORNING, user_id=None, device_id="d", sender=sender) for n in range(60)]
    assert counted(tmp_path / "without", others) == 60
    assert counted(tmp_path / "with", [*attack, *others]) == 60 + LINES.cap


@pytest.mark.parametrize("most", [1, 1000])
def test_a_purchase_lets_no_refunds_of_others_count(quiet: None, tmp_path: Path, most: int) -> None:
    """Rules that compare orders of all users do not decide what is counted."""
    order: dict[str, Any] = {"properties": {"order_id": "o"}, "sender": SERVER}
    carts = [cart(n, MORNING + n, user_id=f"u{n}", **order) for n in range(50)]
    refunds = [msgspec.structs.replace(event, type="refund") for event in carts]
    purchase = msgspec.structs.replace(cart("p", MORNING, **order), type="purchase")
    rules = (
        "- {name: refunds, event: refund, action: dead_letter, unless: {earlier:\n"
        f"   {{event: purchase, same: properties.order_id, within: 1d, most: {most}}}}}}}"
    )
    sums = {
        counted(tmp_path / f"{len(before)}", [*before, *refunds], rules, event="refund")
        for before in ([], [purchase])
    }
    assert sums == {50}


def test_empty_hours_are_noisy_as_well(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded = partial(Publisher, entropy=random.Random(1).randbytes)
    monkeypatch.setattr(counter, "Publisher", seeded)
    counts = counting(ledger)
    run(engine_with(counts), SHOP, 0)
    panes, wanted = released(counts), recount(SHOP, LINES.cap)
    assert panes.keys() == wanted.keys()
    silent = [start for start, cells in wanted.items() if not any(cells.values())]
    assert len(silent) > 60
    noise = [value for start in silent for value in panes[start].values()]
    assert len(set(noise)) > 5, "silence is not told from noise"
    assert abs(sum(noise)) < 6 * 5 * 2**0.5 * len(noise) ** 0.5  # six sigma of scale 5


def test_only_known_keys_of_the_right_events_count(quiet: None, ledger: Ledger) -> None:
    view = {"name": "categories", "by": "category", "keys": ("kind-0",), "event": "view"}
    by_list = lines(name="lists", by="properties.list", keys=("a",), epsilon="0.5")
    counts = counting(ledger, LINES, lines(**view, epsilon="1/2"), by_list)
    items = [
        Item(item_id="x", timestamp=0, category="kind-0", properties={"family": "family-1"}),
        Item(item_id="y", timestamp=0, category="kind-1", properties={"family": "family-9"}),
        Item(item_id="z", timestamp=0, properties={"family": 3, "list": ["a"]}),
    ]
    happened: list[tuple[str, str | None, dict[str, Any]]] = [
        ("add_to_cart", "x", {"user_id": "u"}),
        ("add_to_cart", "x", {"device_id": "u"}),
        ("add_to_cart", "y", {"user_id": "u"}),
        ("add_to_cart", "z", {"user_id": "u"}),
        ("add_to_cart", "no-item", {"user_id": "u"}),
        ("add_to_cart", None, {"user_id": "u"}),
        ("view", "x", {"user_id": "u"}),
        ("view", "y", {"user_id": "u"}),
        ("purchase", "x", {"user_id": "u"}),
    ]
    events = [
        Event(event_id=str(n), type=kind, timestamp=MONDAY + n, item_id=item, **who)
        for n, (kind, item, who) in enumerate(happened)
    ]
    run(engine_with(counts), [*items, tick(MONDAY), *events, tick(MONDAY + 2 * HOUR)], 0)
    assert released(counts) == {MONDAY: {"family-0": 0, "family-1": 2, "family-2": 0}}
    assert released(counts, "categories") == {MONDAY: {"kind-0": 1}}
    assert released(counts, "lists") == {MONDAY: {"a": 0}}


@pytest.mark.parametrize(
    ("cap", "changes", "count"),
    [
        (5, [("same", {}), ("same", {})], 1),
        (1, [("of a user", {}), ("of a device", {"user_id": None, "device_id": "u"})], 2),
    ],
    ids=["a duplicate", "a user and a device of one id"],
)
def test_an_event_counts_once_for_its_unit(
    quiet: None, ledger: Ledger, cap: int, changes: list[tuple[str, dict[str, Any]]], count: int
) -> None:
    counts = counting(ledger, lines(cap=cap))
    events = [cart(event_id, MONDAY, **fields) for event_id, fields in changes]
    run(engine_with(counts), [ITEM, tick(MONDAY), *events, tick(MONDAY + 2 * HOUR)], 0)
    assert released(counts)[MONDAY]["family-0"] == count


# The clock


def test_before_the_replay_tells_its_time_nothing_begins(ledger: Ledger) -> None:
    counts = counting(ledger)
    engine = engine_with(counts)
    silent = [it for it in SHOP if not (isinstance(it, Event) and it.type == CLOCK_EVENT)]
    run(engine, silent, 0)
    assert released(counts) == {}
    assert committed(counts) is None


def test_no_event_but_the_clocks_closes_a_pane(ledger: Ledger) -> None:
    """One person with a fast clock must not decide what of the others comes too late."""
    counts = counting(ledger)
    engine = engine_with(counts)
    fast = cart("fast", MONDAY + 30 * DAY, item_id="item-000")
    run(engine, [tick(MONDAY), fast], 0)
    assert released(counts) == {}
    run(engine, [tick(MONDAY), fast, tick(MONDAY + 3 * HOUR), tick(MONDAY - DAY)], 0)
    assert sorted(released(counts)) == [MONDAY, MONDAY + HOUR], "and time never runs back"


def test_the_wall_clock_closes_panes_on_time_whatever_happens(quiet: None, ledger: Ledger) -> None:
    now = [MONDAY + 5 * HOUR + 1]
    counts = counting(ledger, clock=lambda: now[0])
    engine = engine_with(counts)
    what: list[Entry] = [ITEM, cart(0, now[0]), cart(1, now[0] - HOUR), tick(MONDAY + 99 * DAY)]
    run(engine, what, 0)
    assert released(counts) == {}, "a clock event does not count here"
    now[0] = MONDAY + 6 * HOUR + 59_999
    engine.commit()
    assert released(counts) == {}, "a minute is left for what is on its way"
    now[0] += 1
    engine.commit()
    now[0] += 14_999
    assert released(counts) == {}, "it shows when an idle server would have closed it, too"
    now[0] += 1
    wanted = dict.fromkeys(FAMILIES, 0)
    assert released(counts) == {MONDAY + 5 * HOUR: {**wanted, "family-0": 1}}
    late = [*what, cart(2, MONDAY + 5 * HOUR + 2), cart(3, now[0])]
    run(engine, late, 0)
    now[0] = MONDAY + 8 * HOUR + 75_000
    engine.commit()
    assert released(counts) == {
        MONDAY + 5 * HOUR: {**wanted, "family-0": 1},
        MONDAY + 6 * HOUR: {**wanted, "family-0": 1},
        MONDAY + 7 * HOUR: wanted,
    }, "what came too late is not counted"


def test_the_commit_that_closes_a_pane_does_not_matter(quiet: None, tmp_path: Path) -> None:
    """An event of a pane that is over by the clock is late, whether or not a commit came before."""
    found = []
    for somebody_else_came in (False, True):
        ledger = Ledger(tmp_path / f"{somebody_else_came}.db", daily_epsilon=1)
        now = [MONDAY + HOUR // 2]
        counts = counting(ledger, clock=partial(now.__getitem__, 0))
        engine = engine_with(counts)
        run(engine, [ITEM, cart("on-time", MONDAY + 1)], 0)
        now[0] = MONDAY + HOUR + 60_001
        if somebody_else_came:
            engine.commit()
        run(engine, [ITEM, ITEM, cart("late", MONDAY + 1)], 0)
        now[0] += HOUR
        found.append(released(counts))
        ledger.close()
    assert found[0] == found[1] == {MONDAY: {"family-0": 1, "family-1": 0, "family-2": 0}}


@pytest.mark.parametrize("kind", ["files", "kafka"])
def test_backlog(
    quiet: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    kind: str,
) -> None:
    """One person's backlog makes nobody late: the time of receipt decides, not the engine's."""
    now = [MONDAY + HOUR // 2]
    monkeypatch.setattr(
        clock, "time", SimpleNamespace(time_ns=lambda: now[0] * 1_000_000, **CLOCKS)
    )
    content = {"daily_epsilon": "1", "statistics": [msgspec.to_builtins(LINES)]}
    statistics = configured(tmp_path, content).statistics
    settings = replace(small_settings(tmp_path), statistics=statistics)
    if kind == "kafka":
        servers = request.getfixturevalue("kafka_servers")
        settings = replace(
            settings,
            log=LogSettings(
                kind="kafka", brokers=servers, topic=topic_name(), consumer_threads=2, linger_ms=1
            ),
        )

    def post(*events: Event) -> None:
        answer = live.http.post("/v1/events", json=[wire(event) for event in events]).json()
        assert answer["accepted"] == len(events), answer

    with served(settings) as (live, opened):
        live.http.put("/v1/items", json=[wire(ITEM) | {"timestamp": MONDAY}])
        post(cart("first", now[0]))
        wait_until(lambda: live.platform.engine.offset == 2)
        with live.platform.lock:  # the engine is busy for two hours
            for number in range(0, 2000, 500):
                post(*(cart(number + n, now[0], user_id="busy") for n in range(500)))
            post(*(cart(f"o{n}", now[0], user_id=f"o{n}") for n in range(100)))
            now[0] += 2 * HOUR
        numbers = itertools.count()

        def is_released() -> bool:
            post(cart(f"later-{next(numbers)}", now[0], user_id="later"))
            return MONDAY in released(opened)

        wait_until(is_released)
        assert released(opened)[MONDAY]["family-0"] == 1 + LINES.cap + 100


ITEMS = [Item(item_id=family, timestamp=0, properties={"family": family}) for family in FAMILIES]
ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 2),  # person, who counts for the family of this number alone
        st.integers(0, 10 * 60_000),  # pause before the receipt
        st.integers(0, 2 * HOUR),  # age at the receipt
        st.integers(0, HOUR),  # time for which the event occupies the engine
        st.booleans(),  # whether a commit comes after it
    ),
    max_size=40,
)


def released_by_hand(arrivals: Sequence[tuple[int, int, int, int, bool]]) -> Any:
    """Releases of a server that applies arrivals as fast as it can."""
    now, received, reached = [MONDAY], MONDAY, MONDAY
    queue: list[tuple[Event, int, bool]] = []
    for number, (person, pause, age, takes, commits) in enumerate(arrivals):
        received += pause
        event = cart(number, received - age, user_id=f"p{person}", received_at=received)
        queue.append((replaced(event, item_id=FAMILIES[person]), takes, commits))
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.db", daily_epsilon=1)
        with contextlib.closing(ledger):
            counts = counting(ledger, lines(cap=3), clock=lambda: now[0])
            counts.counter.applied_until = lambda: reached
            counts.counter.before_commit()  # as an idle server commits
            for place, (event, takes, commits) in enumerate(queue):
                now[0] = max(now[0], event.received_at or 0)
                counts.counter.apply(event, ITEMS[FAMILIES.index(str(event.item_id))])
                now[0] += takes
                following = queue[place + 1][0].received_at if place + 1 < len(queue) else None
                reached = min(now[0], following or now[0])
                if commits:
                    counts.counter.before_commit()
            reached = now[0] = MONDAY + 3 * DAY
            counts.counter.before_commit()
            return released(counts)


@given(ARRIVALS)
@example([(0, 59 * 60_000, 0, HOUR, True), *[(1, 0, 0, 0, False)] * 3])
@examples(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_nobody_looks_at_another(
    quiet: None, arrivals: list[tuple[int, int, int, int, bool]]
) -> None:
    """Removing all events of a person leaves the counts of the others, whatever the load."""
    whole = released_by_hand(arrivals)
    kept, pause = [], 0
    for person, before, *rest in arrivals:  # the others are received when they were
        pause += before
        if person:
            kept.append((person, pause, *rest))
            pause = 0
    less = released_by_hand(kept)  # type: ignore[arg-type]
    for start in less.keys() & whole.keys():
        assert {**whole[start], FAMILIES[0]: 0} == {**less[start], FAMILIES[0]: 0}


# Through crashes


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_killed_engine_releases_the_same(quiet: None, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    for life in range(9):
        ledger = Ledger(tmp_path / "ledger.db", daily_epsilon=1)
        counts = counting(ledger)
        engine = engine_with(counts, RocksState(tmp_path / "state"))
        if life == 8:
            run(engine, SHOP, seed)
            assert released(counts) == recount(SHOP, LINES.cap)
        run_and_die(engine, draw, 4)
        ledger.close()


class Dying(MemoryState):
    """A store whose next write fails when told so, as when the process dies just before it."""

    dying = False

    def write(self, changes: Any) -> None:
        if self.dying:
            raise StateError("the process dies here")
        super().write(changes)


def test_a_release_before_a_crash_is_not_drawn_again(ledger: Ledger) -> None:
    """A pane released just before a crash keeps its noise."""
    store = Dying()
    engine = engine_with(counting(ledger), store)
    half = len(SHOP) // 2
    run(engine, SHOP[: half // 2], 0)
    engine.apply([(n, encode_entry(SHOP[n])) for n in range(engine.offset, half)])
    before = released(counting(ledger))
    store.dying = True
    with pytest.raises(StateError, match="dies here"):
        engine.commit()
    after = released(counting(ledger))
    assert len(after) > len(before), "the ledger has panes the state knows nothing of"
    store.dying = False
    counts = counting(ledger)
    run(engine_with(counts, store), SHOP, 1)
    final = released(counts)
    assert {start: final[start] for start in after} == after, "what was shown stays as it was"
    assert final.keys() == recount(SHOP, LINES.cap).keys()


def day_of_a_busy_person(directory: Path) -> int:
    """What a day of one person adds to all releases, with a crash every few hours."""
    what = [ITEM, *ticking([cart(n, MONDAY + n * 60_000) for n in range(600)])]
    for stop in [*range(150, len(what), 150), len(what)]:
        ledger = Ledger(directory / "ledger.db", daily_epsilon=1)
        counts = counting(ledger)
        engine = engine_with(counts, RocksState(directory / "state"))
        run(engine, what[:stop], stop)
        lost = range(stop, min(stop + 30, len(what)))
        engine.apply([(n, encode_entry(what[n])) for n in lost])
        total = sum(sum(cells.values()) for cells in released(counts).values())
        engine.close()
        ledger.close()
    return total


def test_a_day_spent_stays_spent_through_a_crash(quiet: None, tmp_path: Path) -> None:
    assert day_of_a_busy_person(tmp_path) == LINES.cap


def test_planted_forgetting(quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StatisticsCounter, "restore", lambda self, state: None)
    monkeypatch.setattr(StatisticsCounter, "_first_pane", lambda self, name: self.now)
    assert day_of_a_busy_person(tmp_path) > LINES.cap


def test_where_the_caps_are_lost_the_next_day_begins(quiet: None, ledger: Ledger) -> None:
    run(engine_with(counting(ledger)), SHOP, 0)
    before = released(counting(ledger))
    last = max(before)
    morning = (last // DAY + 1) * DAY
    again = counting(ledger)
    before_midnight = [tick(last + HOUR), cart("new-1", morning - 1), tick(morning)]
    after_midnight = [cart("new-2", morning + 1), tick(morning + 2 * HOUR)]
    run(engine_with(again), [ITEM, *before_midnight, *after_midnight], 0)
    after = released(again)
    new = {start: cells for start, cells in after.items() if start not in before}
    assert new == {morning: {"family-0": 1, "family-1": 0, "family-2": 0}}
    assert {start: after[start] for start in before} == before


def test_a_replay_after_a_restore_begins_later(
    quiet: None, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """The file that a restore leaves holds for a replay, too: its days are older than the file."""
    days = sorted({it.timestamp // DAY for it in SHOP if isinstance(it, Event)})
    begins = days[3] * DAY
    counts = PrivateStatistics(
        StatisticsCounter((LINES,), ledger, secret=SECRET, clock=None, not_before=begins)
    )
    run(engine_with(counts), SHOP, 0)
    wanted = recount(SHOP, LINES.cap)
    assert released(counts) == {at: wanted[at] for at in wanted if at >= begins}
    assert any(at < begins for at in wanted)
    assert "remove statistics.not-before" in caplog.text


def test_a_new_statistic_begins_beside_the_old_ones(quiet: None, ledger: Ledger) -> None:
    store = MemoryState()
    half = len(SHOP) // 2
    old, new = lines(epsilon="1"), lines(name="more", epsilon="1")
    run(engine_with(counting(ledger, old), store), SHOP[:half], 0)
    both = counting(ledger, old, new)
    run(engine_with(both, store), SHOP, 1)
    wanted = recount(SHOP, LINES.cap)
    assert released(both) == wanted
    began = min(released(both, "more"))
    assert began > min(wanted)
    later = {start for start in wanted if start >= (began // DAY + 1) * DAY}
    assert {start: released(both, "more")[start] for start in later} == {
        start: wanted[start] for start in later
    }


def test_a_snapshot_is_taken_only_when_something_changed(ledger: Ledger) -> None:
    counts = counting(ledger)
    counts.counter.apply(tick(MONDAY), None)
    assert committed(counts) is not None
    assert committed(counts) is None
    event = cart("e", MONDAY)
    counts.counter.apply(event, ITEM)
    assert committed(counts) is not None
    counts.counter.apply(event, Item(item_id="y", timestamp=0))
    assert committed(counts) is None


def test_a_state_of_another_secret_is_refused_and_an_older_one_read(ledger: Ledger) -> None:
    counts = counting(ledger)
    counts.counter.apply(tick(MONDAY), None)
    state = committed(counts)
    assert state is not None
    other = StatisticsCounter((LINES,), ledger, secret=b"another secret of tests", clock=None)
    with pytest.raises(PrivateStateError, match="another secret"):
        other.restore(state)
    without_sums = msgspec.msgpack.encode(msgspec.msgpack.decode(state)[:2])
    counting(ledger).counter.restore(without_sums)


# What is answered


@pytest.mark.parametrize("limit", [1, 3, 7, 100, 1000])
def test_pages_hold_every_cell_once(concluding: PrivateStatistics, limit: int) -> None:
    counts = concluding
    whole = counts.page("lines", None, 1000, None, None).cells
    assert len(whole) > 150
    found: list[Any] = []
    for page in pages(counts, "lines", limit):
        assert 0 < len(page.cells) <= max(limit, len(FAMILIES))
        found += page.cells
    assert found[: len(whole)] == whole
    assert [(c.pane_start, c.key) for c in found] == [
        (start, key) for start in sorted(released(counts)) for key in FAMILIES
    ]
    for cell in found:
        assert cell.value - cell.low == cell.high - cell.value > 0
    assert (page.epsilon, page.cap, page.unit) == (0.5, 5, "one user, one UTC day")
    starts = sorted(released(counts))
    span = counts.page("lines", None, 1000, starts[3], starts[6])
    assert sorted({cell.pane_start for cell in span.cells}) == starts[3:6], "it is half open"


def test_what_is_not_published_is_not_found(ledger: Ledger) -> None:
    ledger.register(Statistic("internal", ("a",), HOUR, 1, Fraction(1)))
    counts = counting(ledger)
    for name in ("nothing", "internal", ""):
        with pytest.raises(KeyError):
            counts.page(name, None, 10, None, None)
    with pytest.raises(ValueError, match="cursor"):
        counts.page("lines", "not a cursor", 10, None, None)
    (about,) = counts.index().statistics
    assert (about.name, about.epsilon, about.cap) == ("lines", 1.0, 5)


# Configuration

LINE: dict[str, Any] = {"event": "view", "keys": ["x"], "cap": 20}
GOOD = {
    "daily_epsilon": "1",
    "statistics": [
        {**LINE, "name": "a", "by": "category", "epsilon": "1/2"},
        {**LINE, "name": "b", "by": "properties.colour", "epsilon": "0.5"},
    ],
}


def configured(directory: Path, content: Any, **changes: Any) -> Settings:
    path = directory / "statistics.yaml"
    path.write_bytes(content if isinstance(content, bytes) else msgspec.json.encode(content))
    return Settings(
        storage=StorageSettings(data=directory / "data"),
        statistics=StatisticsSettings(definitions=path, **changes),
    )


def changed(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "statistics": [{**GOOD["statistics"][0], **changes}]}  # type: ignore[dict-item]


def without(field: str) -> dict[str, Any]:
    kept = {key: value for key, value in GOOD["statistics"][0].items() if key != field}  # type: ignore[attr-defined]
    return {**GOOD, "statistics": [kept]}


def found_keys(**changes: Any) -> dict[str, Any]:
    """A definition of keys that nobody listed."""
    kept = {
        **{"name": "searches.daily", "event": "search", "by": "event.query", "cap": 2},
        **{"threshold_delta": "0.000001", "epsilon": "1/2", "count": "users", "pane": "1d"},
        **changes,
    }
    statistics = [GOOD["statistics"][0], kept]
    return {"daily_epsilon": "1", "daily_delta": "0.000001", "statistics": statistics}


def test_no_file_means_no_statistics(tmp_path: Path) -> None:
    assert open_statistics(Settings(storage=StorageSettings(data=tmp_path / "data"))) is None
    assert not (tmp_path / "data").exists()


def test_a_good_file_opens_again_with_the_same_secret(tmp_path: Path) -> None:
    settings = configured(tmp_path, GOOD, clock="replay")
    secrets = []
    for _ in range(2):
        opened = open_statistics(settings)
        assert opened is not None
        assert [it.name for it in opened.index().statistics] == ["a", "b"]
        opened.close()
        path = tmp_path / "data" / "statistics.secret"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        secrets.append(path.read_bytes())
    assert secrets[0] == secrets[1]
    assert len(secrets[0]) == 32


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [", "statistics.yaml"),
        (b"", "statistics.yaml"),
        ({**GOOD, "budget": 1}, "budget"),
        ({"statistics": []}, "daily_epsilon"),
        ({**GOOD, "daily_epsilon": 1.0}, "daily_epsilon"),
        ({**GOOD, "daily_epsilon": "1/0"}, "daily_epsilon"),
        ({**GOOD, "daily_epsilon": "0"}, "daily_epsilon"),
        (changed(pane="2h"), "a: pane must be one of 1m, 5m, 1h, 1d, not '2h'"),
        (changed(by="title"), r"statistics\[0\].by"),
        (changed(periods={"1h": "1/4"}), "1h must be longer than the pane"),
        (changed(periods={"1w": "1/4"}), "pane must be one of"),
        (changed(periods={"1d": "0"}), "epsilon is 0"),
        (changed(running_total="1"), "'a.total' costs epsilon 1"),
        (changed(count="people"), r"statistics\[0\].count"),
        (changed(edges=[1, 2]), "a: edges are rising numbers"),
        (changed(keys=[], by="price", edges=[2, 1]), "a: edges are rising numbers"),
        (changed(by="price"), "by price needs edges"),
        (changed(by="any"), "by any has no keys"),
        (changed(running_total_delta="0.000001"), "needs running_total"),
        (changed(running_total="1/2", running_total_delta="0.000001"), "'a.total' costs"),
        (changed(epsilon=0.5), r"statistics\[0\].epsilon"),
        (changed(epsilon="1/0"), r"statistics\[0\].epsilon"),
        (changed(epsilon="0"), "epsilon is 0"),
        (changed(epsilon="2"), "'a' costs epsilon 2"),
        (changed(cap=0), "'a': cap"),
        (changed(cap=-1), "'a': cap"),
        (changed(cap="5"), r"statistics\[0\].cap"),
        (without("cap"), "cap"),
        (without("event"), "event"),
        (changed(epsilon="-1"), r"statistics\[0\].epsilon"),
        (changed(epsilon="nan"), r"statistics\[0\].epsilon"),
        ({**GOOD, "daily_epsilon": "nan"}, "daily_epsilon"),
        (changed(keys=[]), "'a': keys"),
        (changed(keys=["x", "x"]), "'a': a key is listed twice"),
        (changed(name="A B"), "'A B': a name is"),
        (changed(colour="red"), "colour"),
        ({**GOOD, "statistics": [GOOD["statistics"][0]] * 2}, "given twice: a"),
        (found_keys(keys=["tea"]), "no keys and no edges"),
        (found_keys(count="events"), "count: users and pane: 1d"),
        (found_keys(pane="1h"), "count: users and pane: 1d"),
        (found_keys(hour_cap=1), "no hour_cap"),
        (found_keys(running_total="1/4"), "no running_total"),
        (found_keys(threshold_delta="0"), "delta"),
        (found_keys(threshold_delta="1/1000"), "delta"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        open_statistics(configured(tmp_path, content))
    assert "statistics.yaml: " in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_statistics(tmp_path / "nowhere.yaml")


def test_a_promise_made_cannot_be_changed_by_a_file(tmp_path: Path) -> None:
    opened = open_statistics(configured(tmp_path, GOOD))
    assert opened is not None
    opened.close()
    for content, said in (
        ({**GOOD, "daily_epsilon": "2"}, "made with daily_epsilon 1"),
        (changed(cap=7), "'a'"),
        (changed(name="c"), "'c' costs epsilon 1/2 more every day"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            open_statistics(configured(tmp_path, content))
        assert isinstance(caught.value.__cause__, BudgetError | LedgerError)


def test_a_server_publishes_what_its_log_holds(quiet: None, tmp_path: Path) -> None:
    """Over HTTP, through a restart, with the engine's own commits."""
    content = {"daily_epsilon": "1", "statistics": [msgspec.to_builtins(LINES)]}
    statistics = configured(tmp_path, content, clock="replay").statistics
    settings = replace(small_settings(tmp_path), statistics=statistics, engine=EngineSettings())
    half = len(SHOP) // 2
    for part in (SHOP[:half], SHOP[half:]):
        with served(settings) as (live, _):
            for kind, method, path in ((Item, "PUT", "/v1/items"), (Event, "POST", "/v1/events")):
                sent = [wire(it) for it in part if isinstance(it, kind)]
                for start in range(0, len(sent), 500):
                    answer = live.http.request(method, path, json=sent[start : start + 500])
                    assert answer.json()["rejected"] == []
    with served(settings) as (live, _):
        found: dict[int, dict[str, int]] = defaultdict(dict)
        cursor: str | None = None
        while True:
            query = {} if cursor is None else {"cursor": cursor}
            page = live.http.get("/v1/statistics/lines", params={**query, "limit": 90}).json()
            for cell in page["cells"]:
                found[cell["pane_start"]][cell["key"]] = cell["value"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert live.http.get("/v1/statistics/none").status_code == 404
        told = live.http.get("/v1/privacy/ledger").json()
        assert told["spends"][0]["days"] > 0
        assert told["budgets"][0]["reserved"] == told["spends"][0]["epsilon_each_day"]
        for cursor in ("x", "1_0", "٣", "9" * 19, "-" + "9" * 30, "9" * 512):
            wrong = live.http.get("/v1/statistics/lines", params={"cursor": cursor})
            assert (wrong.status_code, wrong.json()["code"]) == (400, "bad_query"), cursor
    assert found == recount(SHOP, LINES.cap)


# More than panes


def event_of(**what: Any) -> Event:
    return Event(**{"event_id": "e", "type": "view", "timestamp": MONDAY, "user_id": "u", **what})


@pytest.mark.parametrize(
    ("definition", "what", "item", "key"),
    [
        ({"by": "any"}, {}, None, "all"),
        ({"by": "any"}, {"type": "click"}, None, None),
        ({"by": "type", "event": ["view", "click"]}, {"type": "click"}, None, "click"),
        ({"by": "type", "event": ["view", "click"]}, {"type": "search"}, None, None),
        ({"by": "category"}, {}, {"category": "tea"}, "tea"),
        ({"by": "category"}, {}, None, None),
        ({"by": "item_id"}, {}, {}, "x"),
        ({"by": "properties.colour"}, {}, {"properties": {"colour": "red"}}, "red"),
        ({"by": "properties.colour"}, {}, {"properties": {"colour": 3}}, None),
        ({"by": "event.place"}, {"properties": {"place": "home"}}, None, "home"),
        ({"by": "price", "edges": [5, 10]}, {}, {"price": 4.99}, "below 5"),
        ({"by": "price", "edges": [5, 10]}, {}, {"price": 5}, "5 to 10"),
        ({"by": "price", "edges": [5, 10]}, {}, {"price": 10}, "10 or more"),
        ({"by": "price", "edges": [5, 10]}, {}, {}, None),
        ({"by": "event.ms", "edges": [1.5]}, {"properties": {"ms": 1}}, None, "below 1.5"),
        ({"by": "event.ms", "edges": [1.5]}, {"properties": {"ms": True}}, None, None),
        ({"by": "event.ms", "edges": [1.5]}, {"properties": {"ms": "1"}}, None, None),
    ],
)
def test_what_an_event_is_counted_as(
    definition: dict[str, Any], what: dict[str, Any], item: dict[str, Any] | None, key: str | None
) -> None:
    fields = {"name": "s", "event": "view", "cap": 1, **definition}
    made = msgspec.convert(fields, StatisticDefinition)
    about = None if item is None else Item(**{"item_id": "x", "timestamp": 0, **item})
    assert made.key(event_of(**what), about) == key
    assert key is None or not made.catalogue or key in made.catalogue


@pytest.mark.slow
def test_periods_and_totals_are_released_beside_the_panes(quiet: None, tmp_path: Path) -> None:
    """Hours, days and totals since midnight from one count of each event, through crashes."""
    wanted = lines(epsilon="1/4", periods={"1d": "1/4"}, running_total="1/2")
    draw = random.Random(5)
    for life in range(5):
        ledger = Ledger(tmp_path / "ledger.db", daily_epsilon=1)
        counts = counting(ledger, wanted)
        engine = engine_with(counts, RocksState(tmp_path / "state"))
        if life == 4:
            run(engine, SHOP, 5)
            hours = recount(SHOP, LINES.cap)
            assert released(counts) == hours
            totals, days = released(counts, "lines.total"), released(counts, "lines.1d")
            assert {it.name: it.kind for it in counts.index().statistics} == {
                "lines": "panes",
                "lines.1d": "panes",
                "lines.total": "running_totals",
            }
        run_and_die(engine, draw, 3)
        ledger.close()

    def of_day(start: int, before: int) -> dict[str, int]:
        midnight = start - start % DAY
        inside = [cells for at, cells in hours.items() if midnight <= at < before]
        return {key: sum(cells[key] for cells in inside) for key in FAMILIES}

    assert days == {start: of_day(start, start + DAY) for start in days}
    assert len(days) > 5
    assert totals == {start: of_day(start, start + HOUR) for start in hours}


def test_users_are_counted_once_a_pane_and_key(quiet: None, ledger: Ledger) -> None:
    visitors = StatisticDefinition(
        name="visitors", event="view", by="any", count="users", pane="1d", cap=1
    )
    counts = counting(ledger, visitors)
    events = [
        event_of(event_id=f"{who}-{n}", timestamp=MORNING + n * HOUR, user_id=who)
        for n in range(5)
        for who in ("ann", "bea", f"guest {n}")
    ]
    run(engine_with(counts), [tick(MORNING), *events, tick(MORNING + DAY + HOUR)], 0)
    assert released(counts, "visitors")[MORNING] == {"all": 7}


def test_every_number_says_what_it_is(concluding: PrivateStatistics) -> None:
    page = concluding.page("lines.total", None, 100, None, None)
    assert page.unit == "one user, one UTC day"
    assert (page.epsilon, page.confidence, page.pane_ms) == (0.5, 0.95, HOUR)
    assert page.kind == "running_totals"
    assert "tree" in page.method
    assert 0 < page.delta < 1e-9
    for cell in page.cells:
        assert cell.counted_from == cell.pane_start - cell.pane_start % DAY
        assert cell.low < cell.value < cell.high


def test_totals_with_gaussian_noise_need_a_delta_in_the_budget(tmp_path: Path) -> None:
    allowed = {**changed(running_total="1/2", running_total_delta="1/1000000")}
    opened = open_statistics(configured(tmp_path, {**allowed, "daily_delta": "1/1000000"}))
    assert opened is not None
    assert [it.kind for it in opened.index().statistics] == ["panes", "gaussian_totals"]
    opened.close()


# What is concluded


def asked(**what: Any) -> ConclusionQuery:
    span = {"since": MORNING, "until": MORNING + DAY}
    return msgspec.convert({**span, **what}, ConclusionQuery, strict=False)


def test_conclusions_are_those_of_the_released_panes(concluding: PrivateStatistics) -> None:
    cells = concluding.page("lines", None, 1000, MORNING, MORNING + DAY).cells
    day = [cell for cell in cells if cell.key == "family-1"]
    each = concluding.conclude("lines", "sum", asked())
    assert (each.panes, each.since, each.until) == (24, MORNING, MORNING + DAY)
    assert (each.epsilon, each.cap, each.unit) == (0.5, 5, "one user, one UTC day")
    assert [it.key for it in each.results] == list(FAMILIES)
    assert each.results[1].value == sum(cell.value for cell in day)
    both = concluding.conclude("lines", "sum", asked(keys="family-0,family-1", confidence="0.99"))
    assert both.confidence == 0.99
    (total,), first = both.results, each.results[0]
    assert total.value == (first.value or 0) + (each.results[1].value or 0)
    assert (total.high or 0) - (total.low or 0) > (first.high or 0) - (first.low or 0)
    ranked = concluding.conclude("lines", "top", asked(k=2)).results
    values = sorted((it.value or 0 for it in each.results), reverse=True)
    assert [it.value for it in ranked] == values[:2]
    assert all(1 <= (it.best or 0) <= (it.worst or 0) <= 3 for it in ranked)
    share = concluding.conclude("lines", "share", asked(part="family-0", rest="family-1,family-2"))
    assert 0 <= (share.results[0].low or 0) <= (share.results[0].high or 0) <= 1
    quantile = concluding.conclude("lines", "quantile", asked(probability="1/2")).results[0]
    assert {quantile.key, quantile.low_key, quantile.high_key} <= set(FAMILIES)


def test_consistent_periods_add_up(concluding: PrivateStatistics) -> None:
    found = concluding.conclude("lines", "consistent", asked()).results
    hours = [it for it in found if (it.end or 0) - (it.start or 0) == HOUR]
    days = [it for it in found if (it.end or 0) - (it.start or 0) == DAY]
    assert (len(hours), len(days)) == (72, 3)
    for day in days:
        assert sum(it.value or 0 for it in hours if it.key == day.key) == pytest.approx(day.value)


@pytest.mark.parametrize(
    ("name", "conclusion", "what", "said"),
    [
        ("lines", "sum", {"keys": "gin"}, "keys must be of the catalogue"),
        ("lines", "share", {"part": "family-0"}, "needs part and rest"),
        ("lines", "share", {"part": "family-0", "rest": "family-0"}, "in common"),
        ("lines", "quantile", {"probability": "2"}, "probability is 2"),
        ("lines", "sum", {"confidence": "1"}, "confidence is 1"),
        ("lines.total", "sum", {}, "overlap"),
        ("lines.1d", "consistent", {}, "no longer periods"),
        ("lines", "sum", {"since": 1, "until": 2}, "nothing is released"),
        ("lines", "sum", {"since": 2, "until": 1}, "nothing is released"),
    ],
)
def test_what_cannot_be_concluded_is_said(
    concluding: PrivateStatistics, name: str, conclusion: str, what: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        concluding.conclude(name, conclusion, asked(**what))


def test_unknown_conclusions_and_spans_too_long_are_refused(
    concluding: PrivateStatistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, conclusion in (("none", "sum"), ("lines", "median")):
        with pytest.raises(KeyError):
            concluding.conclude(name, conclusion, asked())
    monkeypatch.setattr(service, "MAX_PANES", 10)
    with pytest.raises(ValueError, match="ask about less"):
        concluding.conclude("lines", "sum", asked())


def test_conclusions_are_answered_over_http(tmp_path: Path) -> None:
    statistics = configured(tmp_path, GOOD, clock="replay").statistics
    settings = replace(small_settings(tmp_path), statistics=statistics)
    with served(settings) as (live, opened):
        begins = event_of(timestamp=MORNING)  # counting begins with what is counted first
        happened = [tick(MORNING), begins, *(tick(MORNING + n * HOUR) for n in range(1, 4))]
        sent = [wire(it) for it in happened]
        assert live.http.post("/v1/events", json=sent).json()["rejected"] == []
        wait_until(lambda: len(opened.page("a", None, 10, None, None).cells) == 2)
        span = {"since": MORNING, "until": MORNING + DAY}
        answer = live.http.get("/v1/statistics/a/sum", params=span)
        assert answer.status_code == 200, answer.text
        assert answer.json()["panes"] == 2
        assert live.http.get("/v1/statistics/a/median", params=span).status_code == 404
        assert live.http.get("/v1/statistics/a/sum").status_code == 400
        wrong = live.http.get("/v1/statistics/a/sum", params={**span, "keys": "y"})
        assert (wrong.status_code, wrong.json()["code"]) == (400, "bad_query")


# -- keys that nobody listed


def test_discovered_keys_are_published_and_survive_a_restart(quiet: None, tmp_path: Path) -> None:
    """From the definition over the engine and the ledger to HTTP and files."""
    statistics = configured(tmp_path, found_keys(), clock="replay").statistics
    settings = replace(small_settings(tmp_path), statistics=statistics)
    day = MORNING // DAY * DAY
    asked_for = {"tea": 150, "coffee": 130, "the only one of its kind": 1}

    def searches(part: int) -> list[dict[str, Any]]:
        """Half of the people each time; nobody has a third word counted."""
        people = [
            (f"{word} {n}", word) for word, many in asked_for.items() for n in range(part, many, 2)
        ]
        common = {"type": "search", "timestamp": day + 2 * HOUR}
        events = [
            event_of(event_id=f"{who} {n}", user_id=who, properties={"query": word}, **common)
            for who, first in people
            for n, word in enumerate((first, first, "salt", "pepper"))
        ]
        return list(map(wire, events))

    for part in (0, 1):
        with served(settings) as (live, opened):
            shown = partial(opened.page, "searches.daily", None, 10, None, None)
            sent = [wire(tick(day + HOUR + part)), *searches(part)]
            if part:
                sent.append(wire(tick(day + DAY + HOUR)))
            for begin in range(0, len(sent), 500):
                answer = live.http.post("/v1/events", json=sent[begin : begin + 500])
                assert answer.json()["rejected"] == []
            if part:
                wait_until(lambda shown=shown: bool(shown().cells))  # type: ignore[misc]
                told = live.http.get("/v1/statistics/searches.daily").json()
                index = live.http.get("/v1/statistics").json()
                month = live.http.get("/v1/privacy/ledger").json()
                span = {"since": day, "until": day + DAY}
                refused = live.http.get("/v1/statistics/searches.daily/top", params=span)
    cells = {it["key"]: it for it in told["cells"]}
    assert cells.keys() == {"tea", "coffee", "salt"}, "first two words of 281 people"
    for word, many in (("tea", 150), ("coffee", 130), ("salt", 281)):
        assert cells[word]["value"] == many
        assert cells[word]["low"] < cells[word]["value"] < cells[word]["high"]
        assert cells[word]["pane_start"] == cells[word]["counted_from"] == day
    assert (told["kind"], told["delta"], told["next_cursor"]) == ("found_keys", 1e-6, None)
    assert "keys shown from" in told["method"]
    kinds = {it["name"]: it["kind"] for it in index["statistics"]}
    assert kinds == {"a": "panes", "searches.daily": "found_keys"}
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_query")
    assert month["spends"][0]["epsilon_each_day"] == 1.0, "it is reserved, not only spent"
    publish(settings, tmp_path / "out", None)
    (file,) = (tmp_path / "out" / "searches.daily").glob("*.jsonl")
    written = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    assert [(it["key"], it["value"]) for it in written] == [
        (it["key"], it["value"]) for it in told["cells"]
    ]
    assert {it["kind"] for it in written} == {"found_keys"}


# Only what changed is written


def stored_in(counts: PrivateStatistics, store: StateStore) -> Engine:
    return Engine(definitions(), store, EngineOptions(consumers=counts.counter.consumers()))


class Noting(MemoryState):
    """A store that notes which consumers wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.consumers: Counter[str] = Counter()

    def write(self, changes: Any) -> None:
        self.consumers.update(k.decode() for k, v in changes if k[:1] == b"c" and v is not None)
        super().write(changes)


@pytest.mark.parametrize(("few", "seed"), [(0, 1), (20, 2), (10**6, 3)])
def test_kills_change_no_release(
    quiet: None, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, few: int, seed: int
) -> None:
    """Snapshots and changes release through kills what an uninterrupted engine does."""
    monkeypatch.setattr(counter, "_FEW", few)
    store, draw = Noting(), random.Random(seed)
    position = 0
    while position < len(SHOP):
        engine = stored_in(counting(ledger), store)
        for _ in range(draw.randint(1, 6)):
            end = min(len(SHOP), engine.offset + draw.randint(1, 120))
            engine.apply([(n, encode_entry(SHOP[n])) for n in range(engine.offset, end)])
            if draw.random() < 0.7:
                engine.commit()
                position = engine.offset
        # It is killed here: what was not committed is read again.
    assert released(counting(ledger)) == recount(SHOP, LINES.cap)
    whole, later = store.consumers["cstatistics"], store.consumers["cstatistics.changes"]
    assert later >= 1
    assert (whole > later / 2) is (few == 0)


def test_many_new_users_cost_few_snapshots(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 people came; 50 more with every commit: a snapshot each time would write 20 times that.

    Changes are written anew with each commit, so without snapshots they would cost more and more.
    """
    monkeypatch.setattr(counter, "_FEW", 0)
    searches = StatisticDefinition(name="all", event="search", by="any", cap=1)
    counts = counting(ledger, searches)
    ahead = map(str, range(100_000))

    def come(people: int) -> None:
        for _ in range(people):
            counts.counter.apply(did(next(ahead), "search", 10.5), None)

    later = counts.counter.consumers()[f"{counter.CONSUMER}.changes"]
    counts.counter.apply(tick(MONDAY + 10 * HOUR), None)
    come(2_000)
    assert committed(counts) is not None
    assert later.snapshot() is not None, "it takes the place of those to the snapshot before"
    whole, changed = [], []
    for _ in range(40):
        come(50)
        whole.append(len(committed(counts) or b""))
        changed.append(len(later.snapshot() or b""))
    assert 2 <= sum(map(bool, whole)) <= 8
    assert max(changed) < max(whole) / 2
    assert sum(changed) < 2 * sum(whole)


def test_a_snapshot_without_its_changes_counts_nothing_more(ledger: Ledger) -> None:
    """Put back by hand, say: the contributions in between would be handed out again."""
    store = MemoryState()
    run(stored_in(counting(ledger), store), SHOP[:200], 0)
    store.write([(b"cstatistics.changes", None)])
    engine = stored_in(counting(ledger), store)
    with pytest.raises(PrivateStateError, match="as a whole"):
        engine.apply([(n, encode_entry(SHOP[n])) for n in range(engine.offset, 300)])


SEARCHES = StatisticDefinition(name="searches", event="search", by="any", cap=1)
CARTS = StatisticDefinition(name="carts", event="add_to_cart", by="any", cap=5)


def lived(
    ledger: Ledger, lives: Sequence[tuple[tuple[StatisticDefinition, ...], Sequence[Entry]]]
) -> PrivateStatistics:
    """What counts after servers, each with its statistics, that committed after every entry."""
    store, position = MemoryState(), 0
    for wanted, what in lives:
        counts = counting(ledger, *wanted)
        engine = stored_in(counts, store)
        for entry in what:
            engine.apply([(position, encode_entry(entry))])
            position += 1
            engine.commit()
    return counts


def did(person: str, kind: str, hour: float) -> Event:
    at = MONDAY + round(hour * HOUR)
    return Event(event_id=f"{person}-{kind}-{hour}", type=kind, timestamp=at, user_id=person)


def test_a_statistic_that_comes_to_others_is_stored_with_them(quiet: None, ledger: Ledger) -> None:
    before = [tick(MONDAY + 10 * HOUR), did("ada", "add_to_cart", 10.1)]
    later = [did("ada", "search", 10.2), did("bob", "add_to_cart", 10.3)]
    hours = [tick(MONDAY + hour * HOUR) for hour in (11, 12, 13)]
    counts = lived(ledger, [((CARTS,), before), ((CARTS, SEARCHES), [*later, *hours])])
    at = MONDAY + 10 * HOUR
    assert released(counts, "carts")[at] == {EVERYTHING: 2}
    assert released(counts, "searches")[at] == {EVERYTHING: 1}


def test_a_statistic_that_returns_gives_no_second_cap(quiet: None, ledger: Ledger) -> None:
    """Contributions before its absence still count against the cap."""
    both = (CARTS, SEARCHES)
    lives = [
        (both, [tick(MONDAY + 10 * HOUR), did("bob", "search", 10.1), did("ada", "search", 10.2)]),
        (both, [tick(MONDAY + 23 * HOUR // 2)]),
        ((CARTS,), [did("bob", "add_to_cart", 11.6)]),
        (both, [tick(MONDAY + 12 * HOUR), did("ada", "search", 12.1)]),
        (both, [tick(MONDAY + hour * HOUR) for hour in range(13, 26)]),
    ]
    counts = lived(ledger, lives)
    assert sum(pane[EVERYTHING] for pane in released(counts, "searches").values()) == 2
