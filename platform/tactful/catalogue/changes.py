"""Changes of items, read from the engine of this process or of another one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

from tactful.catalogue.request_context import FeatureSource
from tactful_streaming.contract.log_entries import Item, encode_entry

_COMPACT_ABOVE = 10_000
_AT_ONCE = 2_000

Reading = AbstractContextManager[object] | None


class ItemFeed(Protocol):
    """Returns every item once, and again after each change."""

    def changes(self, reading: Reading = None) -> Sequence[Item]:
        """Return items that changed since they were returned last; empty for none.

        `reading` is held while the engine is read; None where no other thread writes to it.
        """


@runtime_checkable
class GivesItems(Protocol):
    """A source of features without an engine in this process, which forwards items."""

    def item_feed(self) -> ItemFeed:
        """Make a feed of its own for the caller."""


class EngineItems:
    """Feed of the items of an engine in this process."""

    def __init__(self, source: FeatureSource) -> None:
        """Begin with all items of `source`."""
        self._source = source
        self._version = -1

    def changes(self, reading: Reading = None) -> Sequence[Item]:
        """Return all changes at once."""
        if self._source.items_version == self._version:
            return ()
        with reading or nullcontext():
            changed = self._source.items_since(self._version)
            self._version = self._source.items_version
        return changed


def feed_of(source: FeatureSource) -> ItemFeed:
    """Make a feed of the items of `source`, from the beginning."""
    return source.item_feed() if isinstance(source, GivesItems) else EngineItems(source)


class ChangeList:
    """The ids of items in the order of their changes, readable from any position.

        epoch 1: ["a", "b", "a", "c", "a"]  ->  epoch 2: ["b", "c", "a"]

    A reader's position is an epoch and a number. When most entries are about items that changed
    again, the list is compacted under the next epoch, and readers begin again.
    """

    def __init__(self, source: FeatureSource, *, compact_above: int = _COMPACT_ABOVE) -> None:
        """List the items of `source`; up to `compact_above` old entries are kept."""
        self._source = source
        self._compact_above = compact_above
        self._feed = EngineItems(source)
        self._collected: list[str] = []
        self._ids: list[str] = []
        self._epoch = 1

    def look(self, reading: Reading) -> None:
        """Collect changes, and do not publish them yet."""
        self._collected += [item.item_id for item in self._feed.changes(reading)]

    def publish(self) -> None:
        """Publish the collected changes to readers."""
        if not self._collected:
            return
        self._ids += self._collected
        self._collected = []
        distinct = len(self._source.items)
        if len(self._ids) > 2 * distinct + self._compact_above:
            self._ids = list(dict.fromkeys(self._ids))
            self._epoch += 1

    def read(self, epoch: int, start: int) -> tuple[int, int, list[bytes]]:
        """Return the epoch, the start of the next part, and the encoded items of this one."""
        begin = start if epoch == self._epoch else 0
        ids = self._ids[begin : begin + _AT_ONCE]
        items = self._source.items
        encoded = [encode_entry(items[item_id]) for item_id in dict.fromkeys(ids)]
        return self._epoch, begin + len(ids), encoded
