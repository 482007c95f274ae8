"""What rises: found in published values, and by no other way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.platform.shop import DAY, HOUR, definitions, engine_at, entries, make_shop, write_log

from tactful.catalogue.catalogue import Catalogue
from tactful.errors import ConfigError
from tactful.ranking.features import columns_fingerprint
from tactful.recall.candidates import Quotas
from tactful.recall.trending import Rise, Trending, Trends, TrendSource, noise_variance, rises
from tactful.recommend.recommender import Recommender, RecommenderOptions
from tactful.schemas.recommendations import RecommendRequest
from tactful.schemas.statistics import StatisticCell, StatisticsPage
from tactful.statistics.counter import CLOCK_EVENT, StatisticsCounter
from tactful.statistics.definitions import StatisticDefinition, load_statistics
from tactful.statistics.service import PrivateStatistics
from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import Statistic
from tactful_privacy.mechanisms.laplace import DiscreteLaplace
from tactful_streaming.contract.log_entries import Event, Item, decode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

KEYS = tuple(f"c-{number}" for number in range(40))
HOURLY = TrendSource("views", "category", HOUR)
CAP = 5
PANES = 8 * 24


def noisy(exact: np.ndarray[Any, Any], epsilon: int = 1, seed: int = 0) -> dict[int, Any]:
    """Panes of exact counts, shape (panes, keys), with the noise of the product's scale."""
    generator = np.random.default_rng(seed)
    rate = 1 - np.exp(-epsilon / CAP)
    noise = generator.geometric(rate, exact.shape) - generator.geometric(rate, exact.shape)
    return {
        pane * HOUR: dict(zip(KEYS, values.tolist(), strict=True))
        for pane, values in enumerate((exact + noise).astype(float))
    }


def counts(level: float = 8.0, seed: int = 1, panes: int = PANES) -> np.ndarray[Any, Any]:
    """Views by hour, more of them in the evening and on the last day."""
    hours = 1 + np.sin(np.arange(panes) * 2 * np.pi / 24)
    busy = np.where(np.arange(panes) >= panes - 24, 3.0, 1.0)
    shares = np.random.default_rng(2).lognormal(0, 1, len(KEYS))
    means = level * (hours * busy)[:, None] * shares
    return np.random.default_rng(seed).poisson(means)


def found(panes: dict[int, Any], epsilon: int = 1) -> dict[str, float]:
    variance = noise_variance(CAP, epsilon)
    return {it.key: it.growth for it in rises(HOURLY, panes, variance=variance, cap=CAP)}


def test_variance_is_that_of_the_noise_that_is_drawn() -> None:
    drawn = DiscreteLaplace(CAP, 1, entropy=np.random.default_rng(1).bytes).sample(40_000)
    # Its fourth moment is 6 squares of the variance, so the estimate has sd of 1.1 %.
    assert np.var(np.asarray(drawn, float)) == pytest.approx(noise_variance(CAP, 1.0), rel=0.06)


def test_what_takes_a_larger_share_or_is_new_rises_and_nothing_else() -> None:
    exact = counts()
    exact[-24:, 7] *= 4
    exact[-24:, 9] //= 4
    assert [*found(noisy(exact))] == ["c-7"]
    exact = counts()
    exact[:, 3] = 0
    exact[-24:, 3] = 50
    assert [*found(noisy(exact))] == ["c-3"]


def test_a_busier_day_of_everybody_is_no_trend_and_noise_is_none() -> None:
    false = 0
    for seed in range(60):
        false += len(found(noisy(counts(seed=seed), seed=seed)))
        # Nobody came at all: there is nothing but noise.
        false += len(found(noisy(np.zeros((PANES, len(KEYS))), seed=1_000 + seed)))
    # Of 4,800 keys, each beyond three deviations and a quarter more with a chance below 1 in 1,000.
    assert false <= 12


def test_with_less_than_two_days_before_it_nothing_is_said() -> None:
    exact = counts(panes=3 * 24)
    exact[-24:, 7] *= 8
    assert "c-7" in found(noisy(exact))
    assert found(noisy(exact[1:])) == {}
    assert found({}) == {}


class Board:
    """Published panes in pages of one pane, and how often they were asked for."""

    def __init__(self, panes: dict[int, dict[str, float]]) -> None:
        self.panes = panes
        self.since: list[int | None] = []

    @property
    def now(self) -> int:
        return max(self.panes, default=0) + HOUR

    def page(
        self, name: str, cursor: str | None, limit: int, since: int | None, until: int | None
    ) -> StatisticsPage:
        assert name == "views"
        if cursor is None:
            self.since.append(since)
        first = int(cursor) if cursor else since or 0
        left = sorted(start for start in self.panes if start >= first)
        cells = [
            StatisticCell(pane_start=start, key=key, value=value, low=value, high=value)
            for start in left[:1]
            for key, value in self.panes[start].items()
        ]
        following = str(left[1]) if len(left) > 1 else None
        return StatisticsPage(
            name=name, epsilon=1.0, cap=CAP, unit="", cells=cells, next_cursor=following
        )


def test_reading_on_finds_what_reading_anew_finds() -> None:
    exact = counts(panes=PANES + 30)
    exact[-24:, 7] *= 4
    panes = noisy(exact)
    board, now = Board({}), [0.0]
    trends = Trends(board, [HOURLY], monotonic=lambda: now[0])
    starts = sorted(panes)
    for begin, end in pairwise([0, 1, 100, 101, 190, PANES + 10, PANES + 30]):
        board.panes.update({start: panes[start] for start in starts[begin:end]})
        asked = len(board.since)
        now[0] += 31.0
        told = trends.look()
        now[0] += 1.0
        assert trends.look() is told is trends.latest
        assert len(board.since) == asked + 1, "panes are looked for every half a minute"
        assert told == Trends(Board(dict(board.panes)), [HOURLY]).look()
    assert [rise.key for rise in trends.latest] == ["c-7"]
    assert board.since[1:] == [starts[end - 1] + 1 for end in (1, 100, 101, 190, PANES + 10)]


# From what rises to rows


def catalogue_of(items: Sequence[Item]) -> Catalogue:
    ids = sorted(item.item_id for item in items)
    return Catalogue(ids, {item.item_id: item for item in items})


RISING = [*(("category", key) for key in "abz"), ("item_id", "i-03")]
CATEGORIES = st.sampled_from(["a", "b", "c", None])


@given(
    items=st.lists(
        st.tuples(CATEGORIES, st.booleans(), st.none() | st.integers(0, 3)), max_size=12
    ),
    rising=st.lists(st.sampled_from(RISING), unique=True),
)
def test_rows_are_those_of_the_rises_in_turn(items: Any, rising: Any) -> None:
    catalogue = catalogue_of(
        [
            Item(
                item_id=f"i-{number:02d}",
                timestamp=1,
                category=category,
                available=available,
                properties={} if day is None else {"released": day * DAY},
            )
            for number, (category, available, day) in enumerate(items)
        ]
    )
    told = tuple(Rise(by, key, 2.0) for by, key in rising)
    queues = []
    for by, key in rising:
        if by == "item_id":
            queues.append([row for row, it in enumerate(catalogue.item_ids) if it == key])
            continue
        own = [row for row, it in enumerate(items) if it[0] == key and it[1]]
        queues.append(sorted(own, key=lambda row: (-1 if (d := items[row][2]) is None else d, row)))
        queues[-1].reverse()
    wanted: list[tuple[int, int]] = []
    for place in range(12):
        for number, queue in enumerate(queues):
            if place < len(queue) and queue[place] not in [row for row, _ in wanted]:
                wanted.append((queue[place], number))
    trending = Trending.of(told, catalogue)
    assert [*zip(trending.rows.tolist(), trending.reason.tolist(), strict=True)] == wanted
    reasons = {number for _, number in wanted}
    assert trending.reasons(trending.rows) == [
        f"{told[number].by} {told[number].key}: 2 x" for number in sorted(reasons)
    ]


# In lists

SHOP = make_shop(7, people=14, items=70, days=12)
NOW = int(SHOP.timestamp[-1]) + 1
CATEGORY = next(item["category"] for item in SHOP.items)
COUNT = 8


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    log = write_log(tmp_path_factory.mktemp("log"), entries(SHOP))
    yield engine_at(Engine(definitions(), MemoryState()), log, log.end)
    log.close()


def listed(engine: Engine, models: Path, **changes: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """The channel of each item of a list for a stranger, and the rules that took part."""
    arms = (Arm("heuristic", 0.5), Arm("learned", 0.5))
    options: dict[str, Any] = {"quotas": Quotas(popular=2, trending=COUNT), **changes}
    options["experiment"] = Experiment("ranking", arms)
    fingerprint = columns_fingerprint(definitions())
    chosen = RecommenderOptions(models=models, definitions=fingerprint, **options)
    made = Recommender(engine, chosen)
    request = RecommendRequest(user_id="stranger", count=COUNT)
    answer, impression = made.recommend(request, now=NOW)
    assert impression is not None
    event = decode_entry(impression)
    assert isinstance(event, Event)
    return {item.item_id: item.channel for item in answer.items}, made.explain(event).rules


def test_lists_propose_what_rises_and_tell_why(engine: Engine, tmp_path: Path) -> None:
    rising = [Rise("item_id", "item-069", 3.0), Rise("category", CATEGORY, 2.5)]
    channels, rules = listed(engine, tmp_path, rising=lambda: rising)
    proposed = {item for item, channel in channels.items() if channel == "trending"}
    assert "item-069" in proposed
    categories = {item["item_id"]: item["category"] for item in SHOP.items}
    assert {categories[item] for item in proposed - {"item-069"}} == {CATEGORY}
    assert len(proposed) >= COUNT - 2
    assert rules["trending"] == ["item_id item-069: 3 x", f"category {CATEGORY}: 2.5 x"]


def fails() -> Sequence[Rise]:
    raise RuntimeError("the ledger is away")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rising": list},
        {"rising": fails},
        {"rising": lambda: [Rise("category", "unheard-of", 9.0)]},
        {"rising": lambda: [Rise("category", CATEGORY, 9.0)], "quotas": Quotas(trending=0)},
    ],
)
def test_nothing_is_trending(engine: Engine, tmp_path: Path, changes: dict[str, Any]) -> None:
    channels, rules = listed(engine, tmp_path, **changes)
    assert len(channels) == COUNT
    assert "trending" not in channels.values()
    assert "trending" not in rules
    if changes.get("rising") is fails:
        assert (channels, rules) == listed(engine, tmp_path)


# Only published values

SECRET = b"a secret of tests only"
VIEWS = StatisticDefinition(
    name="views", event="view", by="category", keys=("quiet", "loud"), cap=CAP, trending=True
)


def test_exact_counts_do_not_reach_it(tmp_path: Path) -> None:
    """Two shops that differ in all that was counted and in nothing that was published."""
    told = []
    for name, liked in (("one", "quiet"), ("other", "loud")):
        ledger = Ledger(tmp_path / f"{name}.db", daily_epsilon=1)
        published = PrivateStatistics(StatisticsCounter([VIEWS], ledger, secret=SECRET, clock=None))
        statistic = Statistic(VIEWS.name, VIEWS.keys, HOUR, VIEWS.cap, Fraction(VIEWS.epsilon))
        trends = published.trends()
        assert trends is not None
        item = Item(item_id="i", timestamp=1, category=liked)
        starts = [100 * DAY + hour * HOUR for hour in range(10 * 24)]
        for at in starts:
            clock = Event(event_id=f"t-{at}", type=CLOCK_EVENT, timestamp=at, device_id="c")
            published.counter.apply(clock, None)
            for person in range(9 if at < 109 * DAY else 90):
                about: Any = {"user_id": f"{name}-{at}-{person}", "item_id": "i"}
                viewed = Event(event_id=f"e-{at}-{person}", type="view", timestamp=at, **about)
                published.counter.apply(viewed, item)
        counts, _ = published.counter._tracks["views"]
        assert isinstance(counts, BoundedCounts)
        counted = counts.closed(110 * DAY)[-1]
        assert counted.counts.tolist() == ([90, 0] if liked == "quiet" else [0, 90])
        assert trends.look() == (), "nothing is published yet"
        values = {start: [100, 900 if start >= 109 * DAY else 100] for start in starts}
        drawn = {start: partial(np.array, value) for start, value in values.items()}
        ledger.release_many(statistic, drawn)
        trends = published.trends()
        assert trends is not None
        told.append(trends.look())
        ledger.close()
    ledger = Ledger(tmp_path / "ledger.db", daily_epsilon=1)
    silent = StatisticDefinition(name="views", event="view", by="category", keys=("a",), cap=20)
    counter = StatisticsCounter([silent], ledger, secret=SECRET, clock=None)
    assert PrivateStatistics(counter).trends() is None, "no statistic is for trends"
    ledger.close()
    assert told[0] == told[1]
    assert [rise.key for rise in told[0]] == ["loud"]


def test_only_what_a_catalogue_knows_can_be_trending(tmp_path: Path) -> None:
    path = tmp_path / "statistics.yaml"
    path.write_text(
        'daily_epsilon: "1"\nstatistics:\n'
        "- {name: a, event: view, by: properties.brand, keys: [x], cap: 5, trending: true}\n"
    )
    with pytest.raises(ConfigError, match="a: trending needs a statistic by category or item_id"):
        load_statistics(path)
