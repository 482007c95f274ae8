"""Trends of an item are the released numbers of its keys, and no others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from tests.platform.statistics.test_service import (
    FAMILIES,
    SHOP,
    counting,
    engine_with,
    lines,
    released,
    run,
)

from tactful.statistics.item_trends import item_trends
from tactful.statistics.service import PrivateStatistics
from tactful_privacy.ledger.ledger import Ledger
from tactful_streaming.contract.log_entries import Item


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateStatistics]:
    path = tmp_path_factory.mktemp("trends") / "ledger.db"
    with contextlib.closing(Ledger(path, daily_epsilon=2)) as ledger:
        counts = counting(ledger, lines(by="category", trending=True))
        run(engine_with(counts), SHOP, 0)
        yield counts


def test_an_item_has_the_released_panes_of_its_category(counts: PrivateStatistics) -> None:
    panes = released(counts)
    for family in FAMILIES:
        item = Item(item_id="tea", timestamp=0, category=family)
        growth = {("category", family): 1.5, ("item_id", "tea"): 9.0}
        (trend,) = item_trends(counts, item, days=366, growth=growth)
        assert {cell.pane_start: cell.value for cell in trend.cells} == {
            start: values[family] for start, values in panes.items()
        }
        assert {cell.key for cell in trend.cells} == {family}
        assert (trend.by, trend.key, trend.growth) == ("category", family, 1.5)
        (short,) = item_trends(counts, item, days=1, growth={})
        assert short.cells == [it for it in trend.cells if it.pane_start >= counts.now - 86_400_000]
        assert short.growth is None


def test_what_is_not_counted_has_no_trend(counts: PrivateStatistics) -> None:
    for category in (None, "another"):
        item = Item(item_id=FAMILIES[0], timestamp=0, category=category)
        assert item_trends(counts, item, days=7, growth={}) == []
