"""Budgets and caps in ``statistics.yaml``, and clocks and ledgers that are not the latest."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tactful.config.privacy import StatisticsSettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.errors import ConfigError
from tactful.statistics.counter import StatisticsCounter
from tactful.statistics.definitions import CapChoiceDefinition, StatisticDefinition, load_statistics
from tactful.statistics.service import PrivateStatistics, open_statistics
from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.released import read_released
from tactful_privacy.errors import LedgerError, StateError
from tactful_privacy.ledger.budget import Budget
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import CapChoice
from tactful_streaming.contract.log_entries import Event, Item

DAY = 86_400_000
HOUR = 3_600_000
NOW = 20_000 * DAY + 10 * HOUR
SECRET = b"sixteen bytes or more"
ITEM = Item(item_id="i", category="tea", timestamp=0)
DEFINITION = StatisticDefinition(
    name="views", event="view", by="category", keys=("tea", "milk"), cap=4, epsilon="1/2"
)


class Clock:
    now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "l.db", daily_epsilon=1, clock=clock)) as ledger:
        yield ledger


def viewed(number: int, at: int, who: str = "u") -> Event:
    return Event(event_id=f"{number}", type="view", timestamp=at, user_id=who, item_id="i")


def opened(
    ledger: Ledger, clock: Callable[[], int], definition: StatisticDefinition = DEFINITION
) -> PrivateStatistics:
    counter = StatisticsCounter([definition], ledger, secret=SECRET, clock=clock, allowance_ms=0)
    return PrivateStatistics(counter)


def committed(statistics: PrivateStatistics) -> bytes | None:
    """The state that a commit would store."""
    statistics.counter.before_commit()
    return statistics.counter.snapshot()


# -- the file -----------------------------------------------------------------------------------

FILE: dict[str, Any] = {
    "daily_epsilon": "1",
    "budgets": [
        {"purpose": "research", "epsilon": "1/4"},
        {"tenant": "north", "epsilon": "1/2"},
        {"epsilon": "20", "days": 30},
    ],
    "statistics": [
        {
            "name": "a",
            "event": "view",
            "by": "category",
            "keys": ["x"],
            "cap": 50,
            "epsilon": "1/4",
            "hour_cap": 3,
            "tenant": "north",
            "purpose": "reports",
            "cap_choice": {"candidates": [5, 50], "epsilon": "1/8", "quantile": "4/5"},
        }
    ],
}


def configured(directory: Path, content: Any) -> Settings:
    path = directory / "statistics.yaml"
    path.write_bytes(msgspec.json.encode(content))
    return Settings(
        storage=StorageSettings(data=directory / "data"),
        statistics=StatisticsSettings(definitions=path),
    )


def changed(**changes: Any) -> dict[str, Any]:
    return {**FILE, "statistics": [{**FILE["statistics"][0], **changes}]}


def test_budgets_and_caps_are_read_from_the_file(tmp_path: Path) -> None:
    statistics = open_statistics(configured(tmp_path, FILE))
    assert statistics is not None
    (registered,) = statistics._ledger.statistics().values()
    assert (registered.tenant, registered.purpose, registered.hour_cap) == ("north", "reports", 3)
    assert registered.cap_choice == CapChoice((5, 50), Fraction(1, 8), Fraction(4, 5))
    assert set(statistics._ledger.budgets) == {
        Budget(Fraction(1)),
        Budget(Fraction(1, 4), purpose="research"),
        Budget(Fraction(1, 2), tenant="north"),
        Budget(Fraction(20), days=30),
    }
    told = [(budget.days, budget.reserved) for budget in statistics.ledger().budgets]
    assert told == [(1, 0.375), (30, 30 * 0.375), (1, 0.0), (1, 0.375)]
    statistics.close()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (changed(purpose="research"), "'a' costs epsilon 3/8 more every day from"),
        (changed(epsilon="1/2"), "tenant 'north'"),
        (changed(hour_cap=0), "hour_cap"),
        (changed(cap=40), "largest candidate"),
        (changed(cap_choice={"candidates": [50, 5], "epsilon": "1"}), "rise"),
        (changed(cap_choice={"candidates": [50], "epsilon": "0"}), "epsilon"),
        (changed(cap_choice={"candidates": [50]}), "epsilon"),
        (changed(running_total="1/8", running_total_delta="1/1000"), "fixed cap"),
        (changed(tenant="A B"), "tenant"),
        ({**FILE, "budgets": [{"epsilon": "1/4", "purpose": "?"}]}, "purpose"),
        ({**FILE, "budgets": [{"epsilon": "0", "purpose": "x"}]}, "above 0"),
        ({**FILE, "budgets": [{"purpose": "x"}]}, "epsilon"),
        ({**FILE, "budgets": [{"epsilon": "1"}]}, "two budgets"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        open_statistics(configured(tmp_path, content))
    assert "statistics.yaml" in str(caught.value)


def test_nothing_is_registered_where_one_statistic_does_not_fit(tmp_path: Path) -> None:
    both = {**FILE, "statistics": [FILE["statistics"][0], {**FILE["statistics"][0], "name": "b"}]}
    with pytest.raises(ConfigError, match="'a' costs epsilon 3/8, 'b' costs epsilon 3/8"):
        open_statistics(configured(tmp_path, both))
    statistics = open_statistics(configured(tmp_path, changed(name="c")))
    assert statistics is not None
    assert set(statistics._ledger.statistics()) == {"c"}
    statistics.close()


def test_the_example_of_the_guide_is_a_good_file(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "how-to" / "privacy-budget.md").read_text("utf-8")
    example = guide.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "statistics.yaml").write_text(example, "utf-8")
    found = load_statistics(tmp_path / "statistics.yaml")
    assert len(found.all_budgets()) == 5


# -- caps ---------------------------------------------------------------------------------------


def counted(statistics: PrivateStatistics) -> BoundedCounts:
    counts, _ = statistics.counter._tracks["views"]
    assert isinstance(counts, BoundedCounts)
    return counts


def test_caps_hold_for_what_the_engine_applies(ledger: Ledger, clock: Clock) -> None:
    definition = msgspec.structs.replace(DEFINITION, hour_cap=2)
    statistics = opened(ledger, clock, definition)
    for number in range(12):
        statistics.counter.apply(viewed(number, NOW + number // 4 * HOUR), ITEM)
    counts = counted(statistics)
    panes = [int(pane.counts.sum()) for pane in counts.closed(NOW + 3 * HOUR)]
    assert panes == [2, 2, 0]  # two an hour, four a day


def test_a_cap_that_is_chosen_is_the_same_after_a_crash(ledger: Ledger, clock: Clock) -> None:
    definition = msgspec.structs.replace(
        DEFINITION,
        cap_choice=CapChoiceDefinition(candidates=(1, 2, 4), epsilon="1/4"),
        periods={"1d": "1/8"},
        running_total="1/8",
    )
    statistics = opened(ledger, clock, definition)
    # The last candidate wins where noise of scale 4 makes it a ninth of so many: chance 1e-12.
    for person in range(1_000):
        for number in range(2):
            statistics.counter.apply(viewed(number, NOW + number, f"{person}"), ITEM)
    saved = committed(statistics)
    assert saved is not None
    caps = []
    for _ in range(2):
        clock.now = NOW - NOW % DAY + DAY + HOUR
        statistics = opened(ledger, clock, definition)
        statistics.counter.restore(saved)
        statistics.counter.apply(viewed(9, clock.now - 1), ITEM)
        committed(statistics)  # and the process dies before it is stored
        caps.append(counted(statistics).cap_on(20_001))
    assert caps == [2, 2]
    assert len(ledger.answers(20_000, 20_000)) == 1
    for name in ("views", "views.1d", "views.total"):
        assert statistics.page(name, None, 1_000, None, None).cells


# -- clocks and copies --------------------------------------------------------------------------


def test_a_clock_set_back_hands_out_no_second_cap(ledger: Ledger, clock: Clock) -> None:
    """The state is lost, and the clock stands on the day before the newest release."""
    statistics = opened(ledger, clock)
    statistics.counter.apply(viewed(1, NOW), ITEM)
    clock.now += HOUR
    committed(statistics)
    today = NOW // DAY
    for back in (0, DAY, 3 * DAY):
        clock.now = NOW + 2 * HOUR - back
        lost = opened(ledger, clock)
        lost.counter.apply(viewed(2, clock.now), ITEM)
        assert counted(lost).open_from == (today + 1) * DAY


def test_a_clock_set_back_closes_and_draws_nothing(ledger: Ledger, clock: Clock) -> None:
    statistics = opened(ledger, clock)
    statistics.counter.apply(viewed(1, NOW), ITEM)
    clock.now += DAY
    committed(statistics)
    released = len(read_released(ledger, "views").panes)
    clock.now -= 2 * DAY
    statistics.counter.apply(viewed(2, clock.now), ITEM)
    committed(statistics)
    assert len(read_released(ledger, "views").panes) == released == 24
    clock.now += 2 * DAY + HOUR
    committed(statistics)
    assert len(read_released(ledger, "views").panes) == 25


def test_an_older_copy_of_the_ledger_is_refused(tmp_path: Path, clock: Clock) -> None:
    """It has forgotten draws, and would draw the same panes again."""
    path = tmp_path / "l.db"
    ledger = Ledger(path, daily_epsilon=1, clock=clock)
    statistics = opened(ledger, clock)
    statistics.counter.apply(viewed(1, NOW), ITEM)
    clock.now += HOUR
    first = committed(statistics)
    assert first is not None
    ledger.close()
    shutil.copy(path, tmp_path / "older.db")
    ledger = Ledger(path, clock=clock)
    statistics = opened(ledger, clock)
    statistics.counter.restore(first)
    clock.now += DAY
    statistics.counter.apply(viewed(2, clock.now), ITEM)
    clock.now += HOUR
    saved = committed(statistics)
    assert saved is not None
    ledger.close()
    for name in ("older.db", "empty.db"):
        other = Ledger(tmp_path / name, daily_epsilon=1, clock=clock)
        with pytest.raises(StateError, match="would draw them a second time"):
            opened(other, clock).counter.restore(saved)
        other.close()
    right = Ledger(path, clock=clock)
    opened(right, clock).counter.restore(saved)
    right.close()


def test_a_ledger_that_fails_stops_the_commit(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "l.db"
    statistics = opened(Ledger(path, daily_epsilon=1, clock=clock), clock)
    statistics.counter.apply(viewed(1, NOW), ITEM)
    statistics._ledger._engine.dispose()
    for file in tmp_path.glob("l.db*"):
        file.unlink()
    path.write_bytes(b"no database any more " * 1_000)
    clock.now += HOUR
    with pytest.raises(LedgerError, match="nothing is released without it"):
        committed(statistics)
