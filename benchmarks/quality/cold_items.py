"""How well items are recommended of which nothing is known but their description.

A fifth of the items of Online Retail loses every event before the cut: the shop knows their titles
and prices, and nobody ever touched them. The questions after the cut whose answer is such an item
are asked twice: of this shop, and of one that knows what happened with them. The figure is the hit
rate of the first by that of the second.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure
from benchmarks.quality.served import served_lists
from benchmarks.shared import retail_path
from tactful.demo.datasets import Ask, Replay, online_retail
from tactful.training.evaluation import Scorecard
from tactful.training.options import TrainingOptions

COLD_ITEM_FIGURES = {
    "cold_item_recall20_ratio": "1",
    "cold_item_recall20": "1",
    "warm_item_recall20": "1",
}

_SHARE = 0.2


def cold_items(
    quick: bool, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Figure]:
    """Measure. Quick takes the customers of three months and fewer questions."""
    known = online_retail(retail_path(), quick=quick)
    names = sorted(str(item["item_id"]) for item in known.items)
    drawn = np.random.default_rng(0).random(len(names)) < _SHARE
    cold = {name for name, taken in zip(names, drawn.tolist(), strict=True) if taken}
    known = replace(known, asks=[ask for ask in known.asks if ask.taken <= cold])
    cards = []
    for number, replay in enumerate((without(known, cold), known)):
        with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name:
            options = TrainingOptions()
            shown = served_lists(
                replay,
                Path(name),
                options,
                progress=lambda done, total, part=number: progress(  # type: ignore[misc]
                    part * total + done, 2 * total
                ),
            )
        card = Scorecard()
        for ask, items in zip(known.asks, shown, strict=True):
            card.add(ask.person, items, ask.taken)
        cards.append(card)
    unknown, warm = cards
    note = f"online_retail, {len(known.asks):,} questions for {len(cold):,} items; 95 % over people"
    found = [
        _figure("cold_item_recall20", unknown, f"nobody had touched the item; {note}"),
        _figure("warm_item_recall20", warm, f"the same questions, items known; {note}"),
    ]
    if not warm.mean("recall20"):
        reason = "known items were never found either, so there is no ratio"
        return [Figure("cold_item_recall20_ratio", None, "1", note=reason), *found]
    ratio = unknown.ratio(warm, "recall20")
    name = "cold_item_recall20_ratio"
    return [
        Figure(name, ratio.value, "1", ratio.low, ratio.high, len(known.asks), note),
        *found,
    ]


def without(replay: Replay, items: set[str]) -> Replay:
    """A replay whose past does not know some items; everything after the cut stays.

    Args:
        replay: events and questions.
        items: ids of the items that lose every event before the cut.
    """
    kept = [
        number
        for number in range(len(replay))
        if number >= replay.cut or replay.item[number] not in items
    ]
    rows = np.array(kept, np.int64)
    places = np.searchsorted(rows, np.arange(len(replay) + 1))

    def texts(column: Sequence[str | None]) -> list[str | None]:
        return [column[number] for number in kept]

    return replace(
        replay,
        timestamp=replay.timestamp[rows],
        kind=replay.kind[rows],
        person=[replay.person[number] for number in kept],
        session=[replay.session[number] for number in kept],
        item=texts(replay.item),
        price=replay.price[rows],
        quantity=replay.quantity[rows],
        cut=int(places[replay.cut]),
        asks=[_moved(ask, int(places[ask.before])) for ask in replay.asks],
    )


def _moved(ask: Ask, before: int) -> Ask:
    return replace(ask, before=before)


def _figure(name: str, card: Scorecard, note: str) -> Figure:
    found = card.estimate("recall20")
    return Figure(name, found.value, "1", found.low, found.high, len(card), note)
