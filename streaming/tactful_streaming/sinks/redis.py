"""Window results in Redis: one packed blob for each entity."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.errors import OnlineStoreError
from tactful_streaming.online.store import RedisConnection
from tactful_streaming.sinks.sink import WindowRow, WindowValue

_BATCH = 128
_NO_GROUP = ""
_GROUP = "="  # prefix of a group's key, which distinguishes a group with an empty name from none

# Redis merges the rows of an entity atomically: sinks may share entities, since the topic is
# partitioned by entity and group. Values are texts to the script, so Lua converts no number.
_MERGE_SCRIPT = """
for number, key in ipairs(KEYS) do
  local blob = redis.call('GET', key)
  local held = blob and cmsgpack.unpack(blob) or {}
  for _, row in ipairs(cmsgpack.unpack(ARGV[number + 1])) do
    local feature, window_start, window_end, group, offset, value = unpack(row)
    local old = held[feature]
    if not old or old[1] < window_end then
      old = {window_end, {}}
      held[feature] = old
    end
    local other = old[2][group]
    if old[1] == window_end and (not other or other[1] <= offset) then
      old[2][group] = {offset, window_start, value}
    end
  end
  if ARGV[1] == '0' then redis.call('SET', key, cmsgpack.pack(held))
  else redis.call('SET', key, cmsgpack.pack(held), 'PX', ARGV[1]) end
end
"""

_Groups = dict[str, tuple[int, int, str]]
_Blob = dict[str, tuple[int, _Groups]]
"""By feature: the end of its newest window, and by group offset, start and JSON."""


class RedisRows:
    """A `RowTarget` in Redis, which must allow scripts (``EVAL``).

    A blob under ``<prefix>:<entity_key>`` is a msgpack map::

        {feature: [window_end, {group: [offset, window_start, JSON of the value]}]}

    A group's key begins with ``=``; the value of a feature without groups has the empty key. Only
    groups of the newest window are stored. Methods raise OnlineStoreError if Redis cannot be
    reached or refuses.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "tactful-fired",
        ttl_s: float | None = None,
        cluster: bool = False,
        timeout_s: float = 5.0,
        attempts: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect to `url` at the first use.

        Args:
            url: see `RedisOnlineStore`.
            prefix: prefix of every key in Redis.
            ttl_s: seconds after which an entity without new rows expires; None: never.
            cluster: whether `url` is a node of a Redis Cluster.
            timeout_s: for connecting and for each answer, seconds.
            attempts: largest number of attempts of an operation.
            sleep: waits between attempts, seconds.

        Raises:
            OnlineStoreError: if the Redis client is not installed or `url` is no Redis URL.
        """
        self._redis = RedisConnection(
            url, cluster=cluster, timeout_s=timeout_s, attempts=attempts, sleep=sleep
        )
        self._prefix = prefix
        self._ttl_ms = 0 if ttl_s is None else max(round(ttl_s * 1000), 1)
        self._batch = 1 if cluster else _BATCH

    def write(self, rows: Sequence[WindowRow]) -> None:
        """Store those of `rows` that are newer than the stored ones."""
        entities: dict[str, list[tuple[Any, ...]]] = {}
        for row in rows:
            group = _NO_GROUP if row.group_key is None else _GROUP + row.group_key
            value = bytes(row.feature_value).decode()
            entities.setdefault(self._key(row.entity_key), []).append(
                (row.feature, row.window_start, row.window_end, group, row.offset, value)
            )
        packed = [(key, msgspec.msgpack.encode(changes)) for key, changes in entities.items()]

        def merge(client: Any) -> None:
            pipeline = client.pipeline(transaction=False)
            for start in range(0, len(packed), self._batch):
                keys, changes = zip(*packed[start : start + self._batch], strict=True)
                pipeline.eval(_MERGE_SCRIPT, len(keys), *keys, self._ttl_ms, *changes)
            pipeline.execute()

        if packed:
            self._redis.run(merge)

    def read(self, entity_keys: Sequence[str]) -> list[dict[str, WindowValue]]:
        """Read the values by feature of each of `entity_keys`, in their order."""

        def get(client: Any) -> list[bytes | None]:
            pipeline = client.pipeline(transaction=False)
            for key in entity_keys:
                pipeline.get(self._key(key))
            return list(pipeline.execute())

        return [_unpack(blob) for blob in self._redis.run(get)] if entity_keys else []

    def erase(self, entity_keys: Sequence[str]) -> int:
        """Delete the blobs of `entity_keys`; return their number."""

        def delete(client: Any) -> int:
            pipeline = client.pipeline(transaction=False)
            for key in entity_keys:
                pipeline.delete(self._key(key))
            return sum(pipeline.execute())

        return self._redis.run(delete) if entity_keys else 0

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _key(self, entity_key: str) -> str:
        return f"{self._prefix}:{entity_key}"


def _unpack(blob: bytes | None) -> dict[str, WindowValue]:
    if blob is None:
        return {}
    try:
        return {
            feature: WindowValue(min(start for _, start, _ in groups.values()), end, _value(groups))
            for feature, (end, groups) in _decoder.decode(blob).items()
        }
    except (ValueError, *DECODE_ERRORS) as error:
        raise OnlineStoreError(
            f"a value in Redis was not written by a sink: {error}; choose another prefix, or "
            "delete it and let the sink read the topic from its beginning"
        ) from error


def _value(groups: _Groups) -> Any:
    values = {group: msgspec.json.decode(text) for group, (_, _, text) in groups.items()}
    if _NO_GROUP in values:
        return values[_NO_GROUP]
    return {group.removeprefix(_GROUP): value for group, value in values.items()}


_decoder = msgspec.msgpack.Decoder(_Blob)
