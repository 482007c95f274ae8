"""An online store in a Redis Cluster whose partitions are written by workers.

A script, by which a worker writes values and its mark together, needs its keys in one slot. Keys
therefore contain the partition in braces, and all keys of a partition share its slot::

    tactful:3f1c…:{2}:user:ann   packed entity of partition 2
    tactful:3f1c…:{2}:@:2        mark of partition 2

A user is in the partition of its key. The key of another entity does not tell its partition: a
session is in that of its user. It is looked for in all of them, in one round trip.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from tactful_streaming.contract.key_partition import partition_of
from tactful_streaming.errors import OnlineStoreError
from tactful_streaming.online.store import MARKS, Blobs, RedisOnlineStore, checked, literally
from tactful_streaming.windows.packed_entity import newest_packed


def space_of(space: str, partition: int) -> str:
    """Return the beginning of all keys of a partition: its braces choose the slot."""
    return f"{space}:{{{partition}}}"


class PartitionedRedisStore(RedisOnlineStore):
    """Reads what the owners of all partitions write to a Redis Cluster.

    While a slot moves to another node, single keys of it can be read, and the owner of its
    partition waits, since a script needs all of its keys on one node.
    """

    def __init__(
        self,
        url: str,
        partitions: int,
        *,
        prefix: str = "tactful",
        tag: str = "",
        ttl_s: float | None = None,
        timeout_s: float = 2.0,
        attempts: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect to `url` at the first use.

        `partitions` is their number in the log. The other arguments are those of
        `RedisOnlineStore`.

        Raises:
            OnlineStoreError: as there, and if there is no partition.
        """
        super().__init__(
            url,
            prefix=prefix,
            tag=tag,
            ttl_s=ttl_s,
            cluster=True,
            timeout_s=timeout_s,
            attempts=attempts,
            sleep=sleep,
        )
        if partitions < 1:
            raise OnlineStoreError(f"{partitions} partitions: a log has at least one")
        self._partitions = partitions

    def get_many(self, keys: Sequence[str], *, kind: str = "user") -> list[bytes | None]:
        """Read the blobs of `keys`, in their order; None for a missing one.

        A session with events in several partitions has the blob with the newest event.
        """
        places = [self._places(kind, key) for key in keys]
        found = iter(self._get([name for names in places for name in names]))
        return [_newest(islice(found, len(names))) for names in places]

    def keys(self, kind: str) -> list[str]:
        """Return the keys of all blobs of a kind, those of a session perhaps several times."""
        ending = f":{checked('kind', kind)}:"
        names = self._scan(f"{literally(self._space)}:{{*}}{ending}*")
        return [name[len(self._space) :].partition(ending)[2] for name in names]

    def put_many(self, blobs: Blobs, *, kind: str = "user") -> None:
        """Store blobs by key; None removes, from each partition that may have the key."""
        kept, removed = [], []
        for key, blob in blobs.items():
            names = self._places(kind, key)
            if blob is None:
                removed += names
            else:
                kept.append((names[0], blob))
        self._put(kept, removed)

    def _places(self, kind: str, key: str) -> list[str]:
        """Return the names that the blob of a key may have; it is stored under the first."""
        own = partition_of(key, self._partitions)
        numbers = [own]
        if kind != "user":
            numbers += [number for number in range(self._partitions) if number != own]
        ending = f":{checked('kind', kind)}:{key}"
        return [space_of(self._space, number) + ending for number in numbers]

    def _mark_key(self, partition: int) -> str:
        return f"{space_of(self._space, partition)}:{MARKS}:{partition}"


def _newest(found: Iterable[bytes | None]) -> bytes | None:
    blobs = [blob for blob in found if blob is not None]
    return max(blobs, key=newest_packed) if len(blobs) > 1 else next(iter(blobs), None)
