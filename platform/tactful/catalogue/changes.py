"""Items as they change: from the engine of this process, or from that of another.

What takes items in does not care where they come from, nor need it keep them: it asks for what
changed since it asked last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

from tactful.catalogue.request_context import FeatureSource
from tactful_streaming.contract.log_entries import Item, encode_entry

_COMPACT_ABOVE = 10_000
_AT_ONCE = 2_000

Reading = AbstractContextManager[object] | None


class ItemFeed(Protocol):
    """Gives every item once, and again whenever it changed."""

    def changes(self, reading: Reading = None) -> Sequence[Item]:
        """Items that were not given since they changed; empty when there are none for now.

        Args:
            reading: held while the engine is read; None where no other thread writes to it.
        """


@runtime_checkable
class GivesItems(Protocol):
    """A source of features that has no engine here, and hands items on instead."""

    def item_feed(self) -> ItemFeed:
        """A feed of its own for whoever asks."""


class EngineItems:
    """The items of an engine in this process."""

    def __init__(self, source: FeatureSource) -> None:
        """Begin with all items of `source`."""
        self._source = source
        self._version = -1

    def changes(self, reading: Reading = None) -> Sequence[Item]:
        """All that changed at once."""
        if self._source.items_version == self._version:
            return ()
        with reading or nullcontext():
            changed = self._source.items_since(self._version)
            self._version = self._source.items_version
        return changed


def feed_of(source: FeatureSource) -> ItemFeed:
    """A feed of the items of `source`, from the beginning."""
    return source.item_feed() if isinstance(source, GivesItems) else EngineItems(source)


class ChangeList:
    """The ids of items in the order in which they changed, to be read from any place on.

    A reader's place is an epoch and a number. When most of the list is about items that changed
    again, it is written anew under the next epoch, and readers begin again.
    """

    def __init__(self, source: FeatureSource, *, compact_above: int = _COMPACT_ABOVE) -> None:
        """List the items of `source`; `look` notices them.

        Args:
            source: the feature engine.
            compact_above: so many entries that are about older changes are no reason to write the
                list anew.
        """
        self._source = source
        self._compact_above = compact_above
        self._feed = EngineItems(source)
        self._found: list[str] = []
        self._ids: list[str] = []
        self._epoch = 1

    def look(self, reading: Reading) -> None:
        """Notice what changed, and say nothing of it yet."""
        self._found += [item.item_id for item in self._feed.changes(reading)]

    def publish(self) -> None:
        """Say what was noticed. Only then may readers meet it."""
        if not self._found:
            return
        self._ids += self._found
        self._found = []
        distinct = len(self._source.items)
        if len(self._ids) > 2 * distinct + self._compact_above:
            self._ids = list(dict.fromkeys(self._ids))
            self._epoch += 1

    def read(self, epoch: int, start: int) -> tuple[int, int, list[bytes]]:
        """A part of the list: its epoch, where the next part begins, and the encoded items."""
        begin = start if epoch == self._epoch else 0
        ids = self._ids[begin : begin + _AT_ONCE]
        return self._epoch, begin + len(ids), [*_encoded(ids, self._source.items)]


def _encoded(ids: Iterable[str], items: Mapping[str, Item]) -> Iterable[bytes]:
    for item_id in dict.fromkeys(ids):
        yield encode_entry(items[item_id])
