"""A Redis Cluster for one test, which may move its slots and kill its nodes."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.streaming.redis_server import RedisServer

from benchmarks.ports import free_port

_SLOTS = 16_384
_OPTIONS = "--cluster-enabled yes --cluster-node-timeout 3000 --cluster-require-full-coverage no"


class RedisCluster:
    """Nodes on the loopback interface, without replicas; each has as many slots."""

    def __init__(self, folder: Path, nodes: int = 3) -> None:
        import redis

        self._stack = ExitStack()
        self.servers: list[RedisServer] = []
        self.clients: list[Any] = []  # of single nodes
        for number in range(nodes):
            home = folder / f"node-{number}"
            home.mkdir()
            bus = str(free_port())
            options = [*_OPTIONS.split(), "--cluster-port", bus]
            server = self._stack.enter_context(RedisServer(home, *options))
            self.servers.append(server)
            client: Any = redis.Redis(port=server.port)
            self._stack.callback(client.close)
            self.clients.append(client)
            first, last = number * _SLOTS // nodes, (number + 1) * _SLOTS // nodes - 1
            client.execute_command(f"CLUSTER ADDSLOTSRANGE {first} {last}")
            client.execute_command(f"CLUSTER SET-CONFIG-EPOCH {number + 1}")
            self.clients[0].execute_command(f"CLUSTER MEET 127.0.0.1 {server.port} {bus}")
        self.url = self.servers[0].url
        self.wait()

    def wait(self) -> None:
        """Wait until all nodes agree on who serves the slots.

        Until then a node that is told of an older owner may delete the keys of a slot.
        """
        until = time.monotonic() + 60
        while True:
            infos = [client.execute_command("CLUSTER INFO") for client in self.clients]
            served = all(info["cluster_slots_ok"] == str(_SLOTS) for info in infos)
            ok = all(info["cluster_state"] == "ok" for info in infos)
            now = {info["cluster_current_epoch"] for info in infos}
            claims = {info["cluster_my_epoch"] for info in infos}
            if ok and served and len(now) == 1 and len(claims) == len(infos):
                return
            assert time.monotonic() < until, infos
            time.sleep(0.01)

    def node_of(self, key: str) -> int:
        """Number of the node that serves the slot of a key."""
        slot = self.clients[0].execute_command("CLUSTER KEYSLOT", key)
        for first, last, (_, port, *_), *_ in self.clients[0].execute_command("CLUSTER SLOTS"):
            if first <= slot <= last:
                return [server.port for server in self.servers].index(port)
        raise AssertionError(f"nobody serves {key}")

    def move(self, key: str, target: int, moved: Callable[[int], object] = lambda _: None) -> None:
        """Move the slot of a key to another node, key by key; `moved` gets the number so far."""
        source, server = self.clients[self.node_of(key)], self.servers[target]
        slot = source.execute_command("CLUSTER KEYSLOT", key)
        ids = [client.execute_command("CLUSTER MYID").decode() for client in self.clients]
        here = ids[self.clients.index(source)]
        self.clients[target].execute_command(f"CLUSTER SETSLOT {slot} IMPORTING {here}")
        source.execute_command(f"CLUSTER SETSLOT {slot} MIGRATING {ids[target]}")
        count = 0
        while keys := source.execute_command("CLUSTER GETKEYSINSLOT", slot, 1):
            source.execute_command("MIGRATE", "127.0.0.1", server.port, keys[0], 0, 5_000)
            count += 1
            moved(count)
        others = [one for one in self.clients if one not in (self.clients[target], source)]
        for client in (self.clients[target], source, *others):
            client.execute_command(f"CLUSTER SETSLOT {slot} NODE {ids[target]}")
        self.wait()

    def __enter__(self) -> "RedisCluster":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
