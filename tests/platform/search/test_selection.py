"""Counts of matches by a property, and the queue of the search thread."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest

from tactful.catalogue import properties
from tactful.catalogue.properties import PropertyColumns
from tactful.schemas.problems import ProblemError
from tactful.server.search.search_thread import SearchThread
from tactful_streaming.contract.log_entries import Item


def columns(values: list[Any]) -> PropertyColumns:
    made = PropertyColumns(len(values))
    described = [{} if value is None else {"size": value} for value in values]
    made.describe(
        (row, Item(item_id=f"i{row}", timestamp=0, properties=it))
        for row, it in enumerate(described)
    )
    return made


def test_counts_of_values_and_lists_are_those_of_plain_counting() -> None:
    values = ["s", ["s", "m", "s"], 4, "4", True, None, None, ["m"], 4.0]
    rows = np.array([0, 1, 2, 3, 4, 5, 6, 7, 7, 8])
    expected = Counter(
        text
        for row in rows.tolist()
        for value in [values[row]]
        for text in {
            str(it).lower() if isinstance(it, bool) else str(it)
            for it in (value if isinstance(value, list) else ["" if value is None else value])
        }
    )
    expected["4"] += expected.pop("4.0")  # one number
    assert columns(values).counts("size", rows) == expected
    assert columns(values).counts("colour", rows) == {"": len(rows)}
    assert columns(values).counts("colour", rows[:0]) == {}


def test_of_many_values_the_most_frequent_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(properties, "MOST_COUNTED", 2)
    values = ["rare", "often", "often", "often", "some", "some"]
    assert columns(values).counts("size", np.arange(6)) == {"often": 3, "some": 2}


def test_a_full_queue_refuses_searches() -> None:
    ended = threading.Event()
    thread = SearchThread("index", queue=1)

    async def work() -> None:
        first = asyncio.create_task(thread.run(lambda index: ended.wait() and index))
        second = asyncio.create_task(thread.run(str.upper))
        await asyncio.sleep(0)
        with pytest.raises(ProblemError, match="too many searches") as refusal:
            await thread.run(str.upper)
        assert refusal.value.kind.status == 503 and refusal.value.retry_after == 1
        ended.set()
        assert [await first, await second] == ["index", "INDEX"]
        assert await thread.run(str.upper) == "INDEX"

    try:
        asyncio.run(work())
    finally:
        ended.set()
        thread.close()
