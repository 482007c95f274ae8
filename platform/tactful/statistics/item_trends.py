"""Released numbers about one item or its category: reading them costs no privacy."""

from __future__ import annotations

from collections.abc import Mapping

from tactful.schemas.item_details import ItemTrend
from tactful.schemas.statistics import StatisticCell
from tactful.statistics.definitions import StatisticDefinition
from tactful.statistics.service import PrivateStatistics
from tactful_streaming.contract.log_entries import Item

_DAY_MS = 86_400_000
_MOST_PANES = 500
_PAGE = 1_000


def item_trends(
    statistics: PrivateStatistics,
    item: Item,
    *,
    days: int,  # length of the span that ends now
    growth: Mapping[tuple[str, str], float],  # rises by field and key
) -> list[ItemTrend]:
    """Return the released panes of every count by item or by category that has the item's key.

    At most 500 panes of each statistic, the latest; it reads a database, so not on an event loop.
    """
    keys = {"item_id": item.item_id, "category": item.category}
    found = []
    for definition in statistics.counts:
        key = keys.get(definition.by)
        if key is not None and (not definition.keys or key in definition.keys):
            rise = growth.get((definition.by, key)) if definition.trending else None
            found.append(_trend(statistics, definition, key, days, rise))
    return found


def _trend(
    statistics: PrivateStatistics,
    definition: StatisticDefinition,
    key: str,
    days: int,
    growth: float | None,
) -> ItemTrend:
    name, cursor, cells = definition.name, None, list[StatisticCell]()
    pane_ms = statistics.page(name, None, 1, statistics.now, None).pane_ms
    since = max(statistics.now - min(days * _DAY_MS, _MOST_PANES * (pane_ms or _DAY_MS)), 0)
    while True:
        page = statistics.page(name, cursor, _PAGE, since, None)
        cells += [cell for cell in page.cells if cell.key == key]
        if (cursor := page.next_cursor) is None:
            break
    return ItemTrend(
        statistic=name,
        title=definition.title,
        by=definition.by,
        key=key,
        epsilon=page.epsilon,
        pane_ms=page.pane_ms,
        growth=growth,
        cells=cells,
    )
