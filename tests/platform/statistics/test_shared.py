"""Several servers count one log into one ledger: one release of each pane, whoever releases it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tactful.statistics import counter
from tactful.statistics.counter import CLOCK_EVENT, StatisticsCounter
from tactful.statistics.definitions import StatisticDefinition
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.errors import LedgerError
from tactful_privacy.ledger.ledger import Ledger
from tactful_streaming.contract.log_entries import Event, Item

DAY, HOUR = 86_400_000, 3_600_000
BEGIN = 1_700_438_400_000 - 1_700_438_400_000 % DAY
ITEM = Item(item_id="x", timestamp=0, properties={"family": "a"})
PAGES = StatisticDefinition(
    name="pages",
    event="view",
    by="event.page",
    keys=("a", "b"),
    cap=5,
    periods={"1d": "1/4"},
    running_total="1/4",
)
FAMILIES = StatisticDefinition(
    name="families", event="view", by="properties.family", keys=("a", "b"), cap=5
)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish without noise, so that the counts can be seen."""
    without = partial(Publisher, entropy=lambda n: bytes([0, 0x80] * (n // 2)))
    monkeypatch.setattr(counter, "Publisher", without)


def view(number: int, hour: float, user: str = "u", page: str = "a") -> Event:
    at = BEGIN + int(hour * HOUR)
    properties: Any = {"page": page}
    return Event(
        event_id=f"{user}{number}",
        type="view",
        timestamp=at,
        user_id=user,
        item_id="x",
        properties=properties,
    )


def tick(hour: float) -> Event:
    at = BEGIN + int(hour * HOUR) + 120_000
    return Event(event_id=f"c{hour}", type=CLOCK_EVENT, timestamp=at, user_id="c")


LOG: Sequence[Event] = [
    event
    for hour in range(52)
    for event in (
        *(view(hour, hour + 0.1, f"u{n}", "ab"[(hour + n) % 2]) for n in range(3)),
        tick(hour + 1),
    )
]


class Server:
    """One server: its own counts, and a connection of its own to the ledger."""

    def __init__(self, path: Path, number: int, *definitions: StatisticDefinition) -> None:
        self.ledger = Ledger(path, daily_epsilon=20)
        steps = itertools.count(step=2)
        self.counter = StatisticsCounter(
            definitions,
            self.ledger,
            secret=bytes([number + 1]) * 20,
            clock=None,
            shared=True,
            monotonic=lambda: float(next(steps)),
        )
        self.counter.share(lambda: self.fence)
        self.counter.consumers()
        self.fence: int | None = None
        self.read = 0

    def apply(self, count: int, item: Item | None = ITEM) -> None:
        for event in LOG[self.read : self.read + count]:
            self.counter.apply(event, item)
        self.read += count

    def close(self) -> None:
        self.ledger.close()


def releases(path: Path) -> dict[tuple[str, int], tuple[int, ...]]:
    with closing(Ledger(path)) as ledger:
        return {
            (name, it.start): tuple(it.noisy_counts.tolist())
            for name in ledger.statistics()
            for it in ledger.read(name, limit=1_000).releases
        }


@pytest.fixture
def expected(quiet: None, tmp_path: Path) -> dict[tuple[str, int], tuple[int, ...]]:
    """The releases of one server alone."""
    path = tmp_path / "alone.db"
    with closing(Ledger(path, daily_epsilon=20)) as ledger:
        alone = StatisticsCounter((PAGES,), ledger, secret=b"s" * 20, clock=None)
        for event in LOG:
            alone.apply(event, ITEM)
            alone.before_commit()
    return releases(path)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["apply", "commit", "take", "late commit", "none"]),
        st.integers(0, 2),
        st.integers(1, 90),
    ),
    max_size=40,
)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(steps=_STEPS)
@example(steps=[("take", 0, 1), ("apply", 0, 90), ("commit", 0, 1), ("apply", 1, 150)] * 2)
def test_any_interleaving_of_servers_releases_what_one_would(
    expected: dict[tuple[str, int], tuple[int, ...]],
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int, int]],
) -> None:
    path = tmp_path_factory.mktemp("shared") / "ledger.db"
    servers = [Server(path, number, PAGES) for number in range(3)]
    fences, held, was_late = itertools.count(1), (0, 0), False
    for action, number, count in [*steps, ("take", 0, 1), *_ends(len(servers))]:
        server = servers[number]
        if action == "apply":
            server.apply(count)
        elif action == "take":
            held = next(fences), number
        elif action == "none":  # nobody has the lease
            held = 0, -1
        elif action == "late commit":  # it was suspended between its look at the lease and this
            server.fence, was_late = server.fence or None, True
            server.counter.before_commit()
        if action != "late commit":
            for each, it in enumerate(servers):
                it.fence = held[0] if each == held[1] else it.fence
        if action == "commit":
            server.fence = held[0] if number == held[1] else None
            server.counter.before_commit()
            server.counter.snapshot()
    for server in servers:
        server.close()
    found = releases(path)
    assert found.items() <= expected.items()
    if not was_late:
        assert found == expected


def _ends(count: int) -> Iterator[tuple[str, int, int]]:
    for number in range(count):
        yield "apply", number, len(LOG)
    for _ in range(2):
        for number in range(count):
            yield "commit", number, 1


def test_a_follower_drops_what_the_other_server_has_released(quiet: None, tmp_path: Path) -> None:
    first, second = (Server(tmp_path / "ledger.db", number, PAGES) for number in range(2))
    first.fence = 1
    for server in (first, second):
        server.apply(4 * 10)
    counts = second.counter._tracks["pages"][0]
    begun = counts.open_from
    second.counter.before_commit()
    assert counts.open_from == begun, "nothing is dropped before it is released"
    first.counter.before_commit()
    second.counter.before_commit()
    assert counts.open_from == first.counter._tracks["pages"][0].open_from > begun
    first.close()
    second.close()


def test_a_fence_that_was_passed_draws_nothing(quiet: None, tmp_path: Path) -> None:
    first, second = (Server(tmp_path / "ledger.db", number, PAGES) for number in range(2))
    first.fence = 1
    first.apply(4 * 3)
    second.apply(4 * 6)
    first.counter.before_commit()
    second.fence = 2
    second.counter.before_commit()
    before = releases(tmp_path / "ledger.db")
    first.apply(4 * 20)
    first.counter.before_commit()  # it wakes, and does not know yet
    assert releases(tmp_path / "ledger.db") == before
    first.close()
    second.close()


def _contributions(path: Path) -> int:
    """Contributions of all users to the first day's panes, with two servers that differ.

    To the first one the item was known from the beginning, to the second one later.
    """
    first, second = (Server(path, number, FAMILIES) for number in range(2))
    first.fence = 1
    first.apply(4 * 6)
    second.apply(4 * 5, item=None)
    first.counter.before_commit()
    first.fence, second.fence = None, 2
    second.apply(4 * 20)
    second.counter.before_commit()
    first.close()
    second.close()
    with closing(Ledger(path)) as ledger:
        panes = ledger.read("families", end=BEGIN + DAY, limit=100).releases
        return sum(int(it.noisy_counts.sum()) for it in panes)


def test_a_day_of_items_belongs_to_one_server(quiet: None, tmp_path: Path) -> None:
    users, cap = 3, 5
    assert 0 < _contributions(tmp_path / "ledger.db") <= users * cap


def test_planted_days_without_an_owner(
    quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StatisticDefinition, "reads_items", False)
    assert _contributions(tmp_path / "ledger.db") > 3 * 5


def test_the_owner_of_a_day_goes_on_with_it_and_the_next_day_is_the_holders(
    quiet: None, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.db"
    first, second = (Server(path, number, FAMILIES) for number in range(2))
    first.fence = 1
    first.apply(4 * 6)
    first.counter.before_commit()
    first.fence, second.fence = None, 2
    for server in (first, second):
        server.apply(len(LOG))
        server.counter.before_commit()
    for server in (first, second):
        server.counter.before_commit()
    starts = {start for _, start in releases(path)}
    assert starts == {BEGIN + hour * HOUR for hour in range(1, 52)}
    for number, server in enumerate((first, second)):
        claim = server.counter._claims["families"]
        days = [server.ledger.owns_day(claim, BEGIN // DAY + day) for day in range(3)]
        assert days == [number == 0, number == 1, number == 1]
        server.close()


def test_a_ledger_that_is_days_older_is_refused(quiet: None, tmp_path: Path) -> None:
    server = Server(tmp_path / "ledger.db", 0, PAGES)
    server.fence = 1
    server.apply(len(LOG))
    server.counter.before_commit()
    state = server.counter.snapshot()
    assert state is not None
    server.close()
    older = Server(tmp_path / "older.db", 0, PAGES)
    with pytest.raises((ValueError, LedgerError), match="does not hold all releases"):
        older.counter.restore(state)
    older.close()


@pytest.mark.parametrize(
    ("fields", "reads"),
    [
        ({"by": "any"}, False),
        ({"by": "type"}, False),
        ({"by": "event.page"}, False),
        ({"by": "category"}, True),
        ({"by": "any", "of": "price"}, True),
        ({"by": "any", "of": "event.amount"}, False),
        ({"by": "properties.family"}, True),
    ],
)
def test_which_statistics_depend_on_items(fields: dict[str, Any], reads: bool) -> None:
    assert msgspec.structs.replace(PAGES, **fields).reads_items is reads
