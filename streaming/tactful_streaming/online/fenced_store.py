"""Copy of a partition's entities in Redis, written by the owner of the partition.

An owner increments the *epoch* of its partition in Redis, and every write contains its epoch: Redis
refuses writes of a former owner.

A state may be older than the copy, for example after a restart from a checkpoint. The copy then
stays unchanged until the state has caught up, so that no reader sees a value go back in time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from tactful_streaming.errors import FencedError, OnlineStoreLostError
from tactful_streaming.online.mirror import stored_blobs
from tactful_streaming.online.partitioned_store import space_of
from tactful_streaming.online.store import Blobs, BlobsByKind, OnlineStore, RedisOnlineStore
from tactful_streaming.online.write_behind import WriteBehind
from tactful_streaming.state.store import StateStore

_BATCH = 512

# Writes blobs and a mark, unless another owner or another mark is there.
# KEYS: the epoch, the mark, blobs. ARGV: our epoch, the offset or '' to keep the mark, the mark to
# replace or '' for any, time to live, number of blobs to store (the others are removed), values.
_WRITE_SCRIPT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0, false} end
local present = redis.call('GET', KEYS[2])
if ARGV[3] ~= '' and present ~= ARGV[2] and present ~= ARGV[3] then return {1, present} end
local stored = 2 + tonumber(ARGV[5])
for i = 3, #KEYS do
  if i > stored then redis.call('UNLINK', KEYS[i])
  elseif ARGV[4] == '0' then redis.call('SET', KEYS[i], ARGV[i + 3])
  else redis.call('SET', KEYS[i], ARGV[i + 3], 'PX', ARGV[4]) end
end
if ARGV[2] ~= '' then redis.call('SET', KEYS[2], ARGV[2]) end
return {1, present}
"""

_Named = Sequence[tuple[str, bytes | None]]


class FencedRedisStore(RedisOnlineStore):
    """A `RedisOnlineStore` that only the newest owner of a partition writes to.

    Each write raises FencedError, and stores nothing, if another process owns the partition;
    OnlineStoreError if Redis cannot be reached or refuses.
    """

    def __init__(
        self,
        url: str,
        partition: int,
        *,
        prefix: str = "tactful",
        tag: str = "",
        ttl_s: float | None = None,
        cluster: bool = False,
    ) -> None:
        """Take ownership of the partition.

        The arguments are those of `RedisOnlineStore`. In a cluster all keys of the partition are
        in one slot, and `PartitionedRedisStore` reads them.
        """
        super().__init__(url, prefix=prefix, tag=tag, ttl_s=ttl_s, cluster=cluster)
        if cluster:
            self._space = space_of(self._space, partition)
        self._partition = partition
        self._epoch_key = f"{self._space}:@epoch:{partition}"
        self._epoch: int = self._redis.run(lambda client: client.incr(self._epoch_key))
        self.fenced = False  # whether a write was refused because another process is the owner

    def is_emptied(self) -> bool:
        """Whether Redis has no owner of the partition: it has lost its data."""
        return self._redis.run(lambda client: client.get(self._epoch_key)) is None

    def put_many(self, blobs: Blobs, *, kind: str = "user") -> None:
        """Store blobs by key; None removes."""
        named = self._named(kind, blobs)

        def write(client: Any) -> list[tuple[int, bytes | None]]:
            # The pipeline of a cluster may ask a node for the keys of each script.
            pipeline = client if self._cluster else client.pipeline(transaction=False)
            answers = [
                self._evaluate(pipeline, named[start : start + _BATCH], self._partition, "", "")
                for start in range(0, len(named), _BATCH)
            ]
            return answers if self._cluster else list(pipeline.execute())

        if named:
            self._check(all(owned for owned, _ in self._redis.run(write)))

    def mark(self, partition: int, offset: int, *, previous: int | None) -> None:
        """Store the mark of the partition; see :meth:`OnlineStore.mark`."""
        self._write([], partition, offset, previous)

    def put_marked(self, blobs: BlobsByKind, partition: int, offset: int, *, previous: int) -> None:
        """Store blobs by kind and key and the mark of the partition, in one script."""
        named = [entry for kind, of_kind in blobs.items() for entry in self._named(kind, of_kind)]
        if len(named) > _BATCH:  # a long script would block other clients of Redis
            super().put_marked(blobs, partition, offset, previous=previous)
        else:
            self._write(named, partition, offset, previous)

    def _named(self, kind: str, blobs: Blobs) -> _Named:
        prefix = self._prefix(kind)
        return [(prefix + key, blob) for key, blob in blobs.items()]

    def _write(self, blobs: _Named, partition: int, offset: int, previous: int | None) -> None:
        before = "" if previous is None else previous
        owned, mark = self._redis.run(
            lambda client: self._evaluate(client, blobs, partition, offset, before)
        )
        self._check(owned)
        self._check_mark(partition, mark, offset, previous)

    def _evaluate(
        self, client: Any, blobs: _Named, partition: int, offset: int | str, before: int | str
    ) -> Any:
        stored = {name: blob for name, blob in blobs if blob is not None}
        removed = [name for name, blob in blobs if blob is None]
        keys = [self._epoch_key, self._mark_key(partition), *stored, *removed]
        values = [self._epoch, offset, before, self._ttl_ms, len(stored), *stored.values()]
        return client.eval(_WRITE_SCRIPT, len(keys), *keys, *values)

    def _check(self, owned: object) -> None:
        if not owned:
            self.fenced = True
            raise FencedError(f"partition {self._partition}: another process writes it to Redis")


class PartitionView:
    """`OnlineStore` of one engine; skips writes while the copy is ahead of its state."""

    def __init__(
        self,
        store: OnlineStore,
        partition: int,
        offset: int,
        *,
        kinds: Collection[str] | None = None,
        fenced: Callable[[], bool] = lambda: False,
        written: OnlineStore | None = None,
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        """Compare the mark of `store`, closed with this object, with the offset of a state.

        Only entities of `kinds` are copied (None: all). If `store` writes later, `written` is the
        store behind it, `fenced` returns whether that refused a write, and `committed` is called
        when the state holds all blobs that were put.
        """
        self._store = store
        self._partition = partition
        self._kinds = kinds
        self._fenced = fenced
        self._written = store if written is None else written
        self._committed = committed
        marked = store.marked(partition)
        self._offset = offset
        self._ahead = marked if marked is not None and marked > offset else None

    def get_many(self, keys: Sequence[str], *, kind: str = "user") -> list[bytes | None]:
        """Read the blobs of `keys`, in their order; None for a missing one."""
        return self._store.get_many(keys, kind=kind)

    def put_many(self, blobs: Blobs, *, kind: str = "user") -> None:
        """Store blobs by key, unless the copy is ahead of the state."""
        if self._ahead is None and (self._kinds is None or kind in self._kinds):
            self._store.put_many(blobs, kind=kind)

    def put_marked(self, blobs: BlobsByKind, partition: int, offset: int, *, previous: int) -> None:
        """Store blobs by kind and key, then the mark of the partition."""
        if self._ahead is not None:
            self.mark(partition, offset, previous=previous)
            return
        kinds = {k: b for k, b in blobs.items() if self._kinds is None or k in self._kinds}
        self._store.put_marked(kinds, partition, offset, previous=previous)

    def remove(self, keys: Collection[str], *, kind: str = "user") -> None:
        """Remove blobs, also if the copy is ahead of the state; they are gone on return."""
        if self._kinds is None or kind in self._kinds:
            self._written.put_many(dict.fromkeys(keys), kind=kind)

    def mark(self, partition: int, offset: int, *, previous: int | None) -> None:
        """Store the mark of the partition.

        Raises:
            OnlineStoreLostError: if the state has just caught up with the copy: all blobs must be
                put, since some were skipped.
        """
        if self._ahead is None:
            self._store.mark(partition, offset, previous=previous)
        elif offset >= self._ahead:
            self._ahead = None
            raise OnlineStoreLostError(f"partition {partition} has caught up with its copy")

    def marked(self, partition: int) -> int | None:
        """Read the mark; while the copy is ahead, return the offset of the state."""
        return self._store.marked(partition) if self._ahead is None else self._offset

    def committed(self) -> None:
        """Note that the state holds all blobs put; raise FencedError if fenced."""
        self._committed()
        if self._fenced():
            raise FencedError(f"partition {self._partition}: another process writes its copy")

    def close(self) -> None:
        """Close the store."""
        self._store.close()


OpenOnline = Callable[[int, StateStore, int], PartitionView]
"""Opens the copy of a partition: its number, its state, and the offset of the state."""


def redis_online(
    url: str,
    *,
    prefix: str = "tactful",
    tag: str = "",
    ttl_s: float | None = None,
    cluster: bool = False,
    kinds: Collection[str] | None = ("user", "session"),
) -> OpenOnline:
    """Return a function that opens the copies of partitions in Redis, for a `Worker`.

    Only entities of `kinds` are copied. A partition has only a part of the events of an item or
    category, and would overwrite other partitions': leave these out, unless the log has one
    partition. The other arguments are those of `RedisOnlineStore`.
    """

    def open_online(partition: int, state: StateStore, offset: int) -> PartitionView:
        def refill() -> Iterator[tuple[str, dict[str, bytes]]]:
            return (piece for piece in stored_blobs(state) if kinds is None or piece[0] in kinds)

        store = FencedRedisStore(
            url, partition, prefix=prefix, tag=tag, ttl_s=ttl_s, cluster=cluster
        )
        behind = WriteBehind(store, refill, early=True)
        return PartitionView(
            behind,
            partition,
            offset,
            kinds=kinds,
            fenced=lambda: store.fenced,
            written=store,
            committed=behind.committed,
        )

    return open_online
