"""The load under which processes are killed: what is sent, and that each of it is acknowledged.

Some shoppers' events, thirty milliseconds apart and out of order by up to fifteen seconds, in
batches that are sent again until they are acknowledged, and now and then again although they were.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from tactful.cleaning.redrive import as_sent
from tactful.client import Client
from tactful.errors import Busy, ClientError, ConnectionFailed
from tactful.schemas.positions import Position, latest
from tactful_streaming.contract.log_entries import Event, Item

START = 1_760_000_000_000
DELAY_MS = 30_000
"""How late an event may come before sequences go on without it: more than the load is ever out of
order, in event time."""

LATENESS_MS = 600_000

DEFINITIONS = """
- {name: killed_views, entity: user, event: view, aggregate: count, window: {size: 5m, slide: 1m}}
- {name: killed_total, entity: user, event: [view, purchase], aggregate: count,
   window: {size: 364d, slide: 28d}}
- {name: killed_spend, entity: user, event: purchase, aggregate: sum, of: properties.price,
   window: {size: 6m, slide: 2m, decay: 0.5}}
- {name: killed_categories, entity: user, event: [view, purchase], aggregate: count,
   group_by: category, window: {size: 4m, slide: 1m}}
- {name: killed_recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 5}
- {name: killed_visit, entity: session, event: view, aggregate: count,
   window: {size: 10m, slide: 2m}}
- {name: killed_sold, entity: item, event: purchase, aggregate: count,
   window: {size: 1d, slide: 1h}}
- {name: killed_heat, entity: category, event: view, aggregate: count,
   window: {size: 1d, slide: 1h}}
- {name: killed_taps, entity: user, event: x.tap, aggregate: count,
   window: {size: 364d, slide: 28d}}
- {name: killed_tapped, entity: user, event: x.tap, aggregate: last_n, of: item_id, n: 5}
- {name: killed_bought, entity: user, sequence: [view, purchase], within: 2m, emit: thanks}
"""
"""One feature of every kind of state: panes, groups, lists, sessions, what all people do, what
devices did before their people were known, and sequences with an action. All sums are exact in
whatever order they are made."""

ACTION = "x.thanks"
PEOPLE = [f"u{number}" for number in range(100)]
CATEGORIES = [f"c{number}" for number in range(8)]
ITEMS = [f"i{number}" for number in range(100)]

_STEP_MS = 30
_BLOCK = 500
_BATCH = 50
_WRITERS = 2
_RETRY_S = 0.05
_WATCH_S = 1.0


class Stream:
    """Batches of new events, for ever; safe to share between threads."""

    def __init__(self, seed: int) -> None:
        """Begin the stream of `seed`."""
        self._rng = random.Random(seed)
        self._seed = seed
        self._lock = threading.Lock()
        self._block: list[int] = []
        self._count = 0
        self.given: list[Event] = []

    @property
    def newest(self) -> int:
        """No event given so far is later, epoch milliseconds."""
        return START + (self._count + _BLOCK) * _STEP_MS

    def batch(self) -> list[Event]:
        """The next events."""
        with self._lock:
            events = [self._event() for _ in range(_BATCH)]
            self.given += events
            return events

    def _event(self) -> Event:
        rng, number = self._rng, self._count
        if not self._block:
            # No two events have the same time, so that no value depends on who comes first.
            self._block = [START + (number + place) * _STEP_MS for place in range(_BLOCK)]
            rng.shuffle(self._block)
        self._count += 1
        user = rng.choice(PEOPLE)
        type_ = rng.choices(["view", "purchase", "x.tap"], [8, 1, 1])[0]
        timestamp = self._block.pop()
        # A tap names no person: whose it is follows from the purchases on the device, which may be
        # later, and in another partition.
        anonymous = type_ == "x.tap"
        return Event(
            event_id=f"{self._seed}:{number}",
            type=type_,
            timestamp=timestamp,
            user_id=None if anonymous else user,
            device_id=None if type_ == "view" else f"phone-of-{user}",
            session_id=None if anonymous else f"{user}-{timestamp // 1_800_000}",
            item_id=rng.choice(ITEMS),
            properties={
                "category": rng.choice(CATEGORIES),
                "price": rng.randrange(4000) / 4,
            },
        )


class Load:
    """Threads that post to a server until the context ends.

    Attributes:
        stream: where their events come from; at the end each was acknowledged.
        upserts: items that were acknowledged, in the order that counts.
        acknowledged: number of batches, so that somebody can see the server at work.
        positions: behind all that was acknowledged.
    """

    def __init__(
        self, url: str, seed: int, *, rate: float, watch: Callable[[], None] = lambda: None
    ) -> None:
        """Post to `url`.

        Args:
            url: of the server, which may come and go.
            seed: of the stream.
            rate: most events a second.
            watch: called while the load waits at its end for what is under way; raises to give up.
        """
        self.stream = Stream(seed)
        self.upserts: list[Item] = []
        self.acknowledged = 0
        self.positions: list[Position] = []
        self._url = url
        self._watch = watch
        self._pause_s = _BATCH * _WRITERS / rate
        self._stopping = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(number, seed), daemon=True)
            for number in range(_WRITERS)
        ]

    def __enter__(self) -> Self:
        """Start to post."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop when what is under way is acknowledged."""
        self._stopping.set()
        try:
            if kind is None:
                for thread in self._threads:
                    while thread.is_alive():
                        thread.join(_WATCH_S)
                        self._watch()
                self.check()
        finally:
            self._over.set()

    @property
    def position(self) -> Position:
        """Behind all that was acknowledged."""
        return latest(self.positions)

    def check(self) -> None:
        """See that all is well.

        Raises:
            RuntimeError: if a server refused what it should have taken.
        """
        if self._failure is not None:
            raise RuntimeError("the load came to an end") from self._failure

    def close_windows(self, events: Sequence[Event]) -> None:
        """Post events of another time, after all others."""
        with Client(self._url, timeout=30.0, retries=0) as client:
            self._post(client, "events", events, self._watch)
        self.stream.given += events

    def _run(self, number: int, seed: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        mine = ITEMS[number::_WRITERS]
        try:
            with Client(self._url, timeout=30.0, retries=0) as client:
                while not self._stopping.is_set():
                    batch = self.stream.batch()
                    self._post(client, "events", batch)
                    if rng.random() < 0.05:
                        self._post(client, "events", batch)
                    if rng.random() < 0.1:
                        self._upsert(client, rng, rng.choice(mine))
                    self._stopping.wait(self._pause_s)
        except BaseException as error:
            self._failure = error

    def _upsert(self, client: Client, rng: random.Random, item_id: str) -> None:
        item = Item(
            item_id=item_id,
            timestamp=self.stream.newest,
            category=rng.choice(CATEGORIES),
            price=rng.randrange(4000) / 4,
        )
        self._post(client, "items", [item])
        with self._lock:
            self.upserts.append(item)

    def _post(
        self,
        client: Client,
        kind: str,
        records: Sequence[Event | Item],
        watch: Callable[[], None] | None = None,
    ) -> None:
        """Send until it is acknowledged, or nobody waits for it any more."""
        bodies = [as_sent(record) for record in records]
        while True:
            try:
                answer: Any = client.events(bodies) if kind == "events" else client.items(bodies)
                break
            except (ConnectionFailed, Busy):
                if watch is not None:
                    watch()
                elif self._over.is_set():
                    raise
                time.sleep(_RETRY_S)
        told = answer.accepted + (answer.duplicates if kind == "events" else 0)
        if answer.rejected or told != len(bodies):
            raise ClientError(f"{kind} were not taken as they are: {answer}")
        with self._lock:
            self.acknowledged += 1
            self.positions = [latest([*self.positions, answer.position])]
