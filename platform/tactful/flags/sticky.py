"""Sticky arms: the arm that a unit keeps when an experiment's coverage or targeting changes.

Only arms of experiments that are defined as sticky are stored. An arm is durable before it is
returned, and never replaced by another; concurrent requests share a transaction.

```text
flag_arms   document "id||ada", experiment "checkout__0" → person "ada", arm "short", version, at
_known      "id||ada" → {"checkout__0": "short"}        the latest documents, also empty ones
```
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence

from tactful.metadata.flag_arms import StickyArm, erase_arms, insert_missing, read_documents
from tactful.metadata.store import MetadataStore

Documents = Mapping[str, Mapping[str, str]]

_KNOWN = 100_000
# Times after which a document is read again, since another server may have changed or erased it.
_EMPTY_S, _HELD_S = 10.0, 600.0


class StickyArms:
    """The sticky arms of one installation, used from the event loop but for `erase`.

    Methods raise StorageError if the database cannot be used.
    """

    def __init__(
        self, metadata: MetadataStore, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Use a database whose schema is up to date; `clock` is in seconds."""
        self._metadata = metadata
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, dict[str, str]]] = OrderedDict()
        self._waiting: list[tuple[Sequence[StickyArm], asyncio.Future[Documents]]] = []
        self._writer: asyncio.Task[None] | None = None

    def known(self, documents: Collection[str]) -> Documents | None:
        """Return documents from memory; None if one of them must be read."""
        found = {}
        for document in documents:
            held = self._known.get(document)
            if held is None or self._clock() - held[0] > (_HELD_S if held[1] else _EMPTY_S):
                return None
            found[document] = held[1]
        return found

    async def read(self, documents: Collection[str]) -> Documents:
        """Return documents, from memory if they are there."""
        found = self.known(documents)
        if found is None:
            found = await asyncio.to_thread(read_documents, self._metadata, documents)
            self._keep(found)
        return found

    async def save(self, arms: Sequence[StickyArm]) -> Documents:
        """Store arms durably, unless there are others; return the documents as stored now."""
        stored: asyncio.Future[Documents] = asyncio.get_running_loop().create_future()
        self._waiting.append((arms, stored))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting())
        return await stored

    def erase(self, people: Collection[str]) -> int:
        """Delete the arms of users or devices and return their number; called in a thread."""
        own = erase_arms(self._metadata, people)
        for arm in own:
            self._known.pop(arm.document, None)
        return len(own)

    async def _write_waiting(self) -> None:
        """Write until nothing waits, all that waits in one transaction."""
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                arms = [arm for new, _ in batch for arm in new]
                stored = await asyncio.to_thread(insert_missing, self._metadata, arms)
            except Exception as error:
                for _, waiting in batch:
                    if not waiting.done():
                        waiting.set_exception(error)
                continue
            self._keep(stored)
            for new, waiting in batch:
                if not waiting.done():
                    waiting.set_result({arm.document: stored[arm.document] for arm in new})

    def _keep(self, documents: Documents) -> None:
        now = self._clock()
        for document, arms in documents.items():
            self._known[document] = (now, dict(arms))
            self._known.move_to_end(document)
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)
