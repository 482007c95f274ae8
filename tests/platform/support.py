"""A small platform for tests: real log, engine and HTTP, and a tiny recommender."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import msgspec
import numpy as np

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.changes import GivesItems
from tactful.config.engine import EngineSettings
from tactful.config.privacy import ConsentSettings
from tactful.config.server import LimitSettings, ServerSettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.errors import ModelError
from tactful.http.routes import make_application
from tactful.http.uvicorn_server import Server, listen, make_server
from tactful.metrics.registry import Stage
from tactful.recall.candidates import CatalogueView
from tactful.recall.index import empty_index
from tactful.recall.popularity import Popularity
from tactful.recommend.build import Counts
from tactful.recommend.item_lists import ItemLists
from tactful.recommend.trials import Attempt, TrialOptions
from tactful.schemas.positions import Position
from tactful.schemas.recommendations import (
    Explanation,
    Recommendation,
    RecommendedItem,
    RecommendRequest,
)
from tactful.server.platform import Platform
from tactful.vectors.ivf_index import Snapshot
from tactful.workers.pool import WorkerPool
from tactful.workers.state_server import StateServer
from tactful.workers.status import Served
from tactful_streaming.contract.log_entries import Entry, Event, Item, decode_entry, encode_entry
from tactful_streaming.log.embedded_log import EmbeddedLog

SHOP = "https://shop.example"

FEATURES = """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 364d, slide: 28d}}
- name: spend
  entity: user
  event: purchase
  aggregate: sum
  of: properties.price
  window: {size: 364d, slide: 28d}
- name: by_category
  entity: user
  event: view
  aggregate: count
  group_by: category
  window: {size: 364d, slide: 28d}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 5}
"""


class TinyRecommender:
    """Recommends the catalogue by id, and reports the number of views."""

    counted_at = 0.0
    latest_event = 0
    observe: Callable[[Stage, float], None] | None = None
    crossed: Any = None
    trained_index = empty_index()

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.refreshed = 0
        self._items: dict[str, Item] = {}
        self._feed = engine.item_feed() if isinstance(engine, GivesItems) else None
        self.before: Callable[[], None] = lambda: None
        self.before_personal: Callable[[], None] = lambda: None

    def recommend(
        self, request: RecommendRequest, *, now: int
    ) -> tuple[Recommendation, bytes | None]:
        self.before()
        subject = request.subject
        if subject is not None:
            self.before_personal()
        views = 0.0 if subject is None else self.engine.read("user", subject, now)["views"]
        known = set(self._items or self.engine.items)
        chosen = sorted(known - set(request.exclude))[: request.count]
        recommendation = Recommendation(
            recommendation_id=uuid.uuid4().hex,
            items=[RecommendedItem(item_id=it, score=1.0, channel="all") for it in chosen],
            model_version="tiny",
            variant=dict(request.force),
            fallback=None if subject else "nobody was named",
        )
        if subject is None:
            return recommendation, None
        impression = Event(
            event_id=f"impression:{recommendation.recommendation_id}",
            type="impression",
            timestamp=now,
            user_id=request.user_id,
            device_id=request.device_id,
            recommendation_id=recommendation.recommendation_id,
            properties={"items": [*chosen], "views": views},
        )
        return recommendation, encode_entry(impression)

    def answer(
        self, request: RecommendRequest, *, now: int
    ) -> tuple[Recommendation, Callable[[], bytes] | None]:
        answer, impression = self.recommend(request, now=now)
        return answer, None if impression is None else lambda: impression

    def attempt(self, request: RecommendRequest, options: TrialOptions, *, now: int) -> Attempt:
        answer, impression = TinyRecommender.recommend(
            self, msgspec.structs.replace(request, user_id=None, device_id=None), now=now
        )
        return Attempt(answer, impression, {"all": [item.item_id for item in answer.items]})

    def load_to_compare(self, version: str) -> None:
        if version != "tiny":
            raise ModelError(f"there is no version {version}")

    @contextlib.contextmanager
    def lists(self) -> Iterator[ItemLists]:
        index, items = empty_index(), dict(self._items or self.engine.items)
        catalogue = Catalogue((), items)
        popular = Popularity.of(np.arange(len(items)), len(items))
        search = Snapshot.of(index.item_ids, index.nearest)
        yield ItemLists(CatalogueView(index, search, catalogue, popular), 10)

    @property
    def catalogue(self) -> Catalogue:
        with self.lists() as lists:
            return lists.view.catalogue

    def explain(self, impression: Event) -> Explanation:
        return Explanation(
            recommendation_id=impression.recommendation_id or "",
            at=impression.timestamp,
            ranking="by id",
            model_version="tiny",
            rules={"views": impression.properties["views"]},
        )

    def refresh(self, reading: AbstractContextManager[object]) -> None:
        self.refreshed += 1
        if self._feed is not None:
            self._items |= {item.item_id: item for item in self._feed.changes()}

    def describe(self) -> Mapping[str, Any]:
        return {"ranker": {"version": "tiny"}}

    def close(self) -> None:
        pass


def build(*, engine: Any, settings: Settings) -> TinyRecommender:
    return TinyRecommender(engine)


def small_settings(directory: Path) -> Settings:
    """Settings of a server in --dev on a free port; nothing outside `directory`."""
    features = directory / "features.yaml"
    features.write_text(FEATURES)
    return Settings(
        server=ServerSettings(port=0, dev=True, after_wait_s=60),
        storage=StorageSettings(
            data=directory / "data", reports=directory / "reports", durability="process"
        ),
        limits=LimitSettings(body_bytes=256 * 1024),
        engine=EngineSettings(features=features, commit_ms=20),
        consent=ConsentSettings(default="assume"),
    )


class Live:
    """Server in a thread of this process, on a real socket; with `workers` they answer."""

    def __init__(
        self,
        platform: Platform,
        *,
        ready: bool = True,
        workers: int = 0,
        build: str = "support:build",  # makes the recommender of a worker
    ) -> None:
        self.platform = platform
        self.workers = workers
        self._build = build
        self._ready = ready
        self._serving = threading.Event()
        self._stopping = threading.Event()
        self._refreshes: Counter[int] = Counter()  # of each worker, which tells of them
        server = platform.settings.server
        self._listener = listen(server.host, server.port)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://{server.host}:{self.port}"
        self._server: Server = make_server(make_application(platform), server)
        self._server.main_loop = self._until_stopped  # type: ignore[method-assign]
        self._thread = threading.Thread(
            target=self._run_pool if workers else lambda: self._server.run([self._listener]),
            daemon=True,
        )
        # Loading the trusted certificates takes longer than most requests.
        self.http = httpx.Client(base_url=self.url, timeout=60, verify=False)

    def __enter__(self) -> Live:
        self._thread.start()
        wait_until(lambda: self._server.started or self._serving.is_set() or self._ended)
        assert not self._ended
        wait_until(lambda: not self._ready or self.platform.health().status == "ok")
        return self

    async def _until_stopped(self) -> None:
        """Wait as uvicorn does, but look ten times as often: a test stops its server soon."""
        while not self._server.should_exit:
            await asyncio.sleep(0.01)

    @property
    def _ended(self) -> bool:
        return not self._thread.is_alive()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop gracefully; twice is harmless."""
        self.http.close()
        self._server.should_exit = True
        self._stopping.set()
        self._thread.join(120)
        assert not self._thread.is_alive()
        self._listener.close()

    def _run_pool(self) -> None:
        async def serve() -> None:
            state = StateServer(self.platform, self._build, Counts())
            await self.platform.start(refresh=state.refresh)
            pool = WorkerPool(self.platform, state, self._listener, count=self.workers)
            report = pool._status.report

            def counted(number: int, served: Served) -> None:
                self._refreshes[number] += 1
                report(number, served)

            pool._status.report = counted  # type: ignore[method-assign]
            try:
                with mock.patch.dict(os.environ, PYTHONPATH=_with_support()):
                    assert await pool.start()
                self._serving.set()
                await asyncio.to_thread(self._stopping.wait)
            finally:
                await pool.stop()
                await self.platform.stop()

        asyncio.run(serve())

    def create_key(self, *scopes: str) -> str:
        """Create an API key, and wait until it is valid on new connections, too."""
        key, _ = self.platform.keys.create(scopes)
        self._wait_for_key(key, valid=True)
        return key

    def revoke_key(self, key: str) -> None:
        """Revoke a key, and wait until it is no more valid."""
        self.platform.keys.revoke(key.split("_")[1])
        self._wait_for_key(key, valid=False)

    def _wait_for_key(self, key: str, *, valid: bool) -> None:
        if self.workers:
            # A new connection may meet any worker. The first report may follow a refresh that had
            # read the keys before.
            before = Counter(self._refreshes)
            places = range(self.workers)
            wait_until(lambda: all(self._refreshes[each] >= before[each] + 2 for each in places))
        # Any key may ask this, at a tenth of the cost of the metrics of all workers.
        answer = self.http.get("/v1/me", headers={"x-api-key": key, "connection": "close"})
        assert (answer.status_code != 401) == valid

    def views(self, user: str, after: Position) -> float:
        """Return the number of views of `user`, once everything up to `after` is applied."""
        answer = self.http.post(
            "/v1/recommend", json={"user_id": user, "after": after, "explain": True}
        )
        assert answer.status_code == 200, answer.text
        return float(answer.json()["explanation"]["rules"]["views"])


def _with_support() -> str:
    """Return a path on which `support` is found; another package may be named `tests`."""
    return os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


class AtOnce(Executor):
    """Runs work at once, in the calling thread."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def view(number: int, user: str = "u", **changes: Any) -> dict[str, Any]:
    """Return a view event for a request."""
    return {
        "event_id": f"{user}-{number}",
        "type": "view",
        "timestamp": now_ms(),
        "user_id": user,
        "item_id": f"i-{number % 7}",
        "properties": {"category": "kitchen", "price": 2.5},
        **changes,
    }


def events(count: int) -> list[Event]:
    """Return `count` view events as log entries."""
    return [
        Event(event_id=f"u-{number}", type="view", timestamp=now_ms(), user_id="u")
        for number in range(count)
    ]


def logged(data: Path) -> list[Entry]:
    """Return the entries of the log in a data directory, in order."""
    with EmbeddedLog(data / "log", durability="process", read_only=True) as log:
        return [decode_entry(payload) for _, payload in log.read(log.begin, 10**7)]


def logged_ids(data: Path) -> list[str]:
    """Return the ids of all events in the log, in order."""
    return [entry.event_id for entry in logged(data) if isinstance(entry, Event)]


def work(seconds: float) -> Callable[[], None]:
    """Return a function that takes `seconds`."""
    return lambda: time.sleep(seconds)


def post_all(url: str, path: str, bodies: list[Any]) -> list[httpx.Response]:
    """Post all bodies at the same time, each over a connection that is open already."""
    together = threading.Barrier(len(bodies))

    def post(body: Any) -> httpx.Response:
        with httpx.Client(base_url=url, timeout=30, verify=False) as http:
            http.get("/healthz")
            together.wait(120)
            return http.post(path, json=body)

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(post, bodies))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def wait_until(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until a condition holds that another thread will fulfil."""
    end = time.monotonic() + seconds
    pause_s = 0.005
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, 0.03)  # a condition that is a request delays what it awaits


_FORKED = """
import os, signal, sys

def countdown(count, events=("os.rename", "os.remove")):
    # A function that kills the process at its count-th call, for steps and for changes of files.
    def step(event="", arguments=(0, 0, 0)):
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
        if event in ("", *events) or writes:
            count -= 1
            if count < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    return step
"""
_ATTEMPTS = """
# A child for each attempt, so that what takes long is imported once.
for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            work(int(line))
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextlib.contextmanager
def killed_after(code: str, *arguments: object) -> Iterator[Callable[[int], bool]]:
    """Run `work(count)` of a program in children of its process; the result: was it killed?

    The program kills itself by `countdown(count)`, at a step or, as an audit hook, at a change of
    a file.
    """
    with subprocess.Popen(
        [sys.executable, "-c", _FORKED + code + _ATTEMPTS, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": _with_support()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        sent, answered = process.stdin, process.stdout
        assert sent is not None and answered is not None

        def attempt(count: int) -> bool:
            sent.write(f"{count}\n")
            ended = int(answered.readline())
            assert ended in (0, -signal.SIGKILL)
            return ended != 0

        yield attempt
        sent.close()


class Gate(threading.Event):
    """Event that blocked calls wait for; `reached` is set when the first one waits."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()


@contextlib.contextmanager
def blocked(target: Any, name: str) -> Iterator[Gate]:
    """Let calls of a method wait until the gate is set; it is set at the end."""
    gate = Gate()
    original = getattr(target, name)

    def wait(*args: Any, **kwargs: Any) -> Any:
        gate.reached.set()
        gate.wait(120)
        return original(*args, **kwargs)

    setattr(target, name, wait)
    try:
        yield gate
    finally:
        gate.set()
        setattr(target, name, original)
