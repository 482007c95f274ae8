"""The load under which processes are killed: what is sent, and that each of it is acknowledged.

Some shoppers' events, thirty milliseconds apart and out of order by up to fifteen seconds, in
batches that are sent again until they are acknowledged, and now and then again although they were.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from tactful.cleaning.redrive import as_sent
from tactful.client import Client
from tactful.errors import ApiError, Busy, ClientError, ConnectionFailed, ServerFault
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
- {name: killed_taps, entity: user, event: search, aggregate: count,
   window: {size: 364d, slide: 28d}}
- {name: killed_tapped, entity: user, event: search, aggregate: last_n, of: item_id, n: 5}
- {name: killed_bought, entity: user, sequence: [view, purchase], within: 2m, emit: thanks}
"""
"""One feature of every kind of state: panes, groups, lists, sessions, what all people do, what
devices did before their people were known, and sequences with an action. All sums are exact in
whatever order they are made."""

COUNTS = ("killed_total", "killed_taps")
"""Features that count each event of a person once, over all of the load."""

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
_READ_S = 0.1
_TIMEOUT_S = 30.0
_PATIENT_S = 300.0


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
        type_ = rng.choices(["view", "purchase", "search"], [8, 1, 1])[0]
        timestamp = self._block.pop()
        # A search names no person: whose it is follows from the purchases on the device, which may
        # be later, and in another partition.
        anonymous = type_ == "search"
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
        faults: answers that say that the server failed.
        answer_s: longest wait for an answer to one request.
        acknowledged_s: longest wait for an acknowledgement, however often a batch was sent.
    """

    def __init__(
        self,
        url: str,
        seed: int,
        *,
        rate: float,
        watch: Callable[[], None] = lambda: None,
        patient: bool = False,
        look: Callable[[Client, int], None] = lambda client, newest: None,
    ) -> None:
        """Post to `url`.

        Args:
            url: of the server, which may come and go.
            seed: of the stream.
            rate: most events a second.
            watch: called while the load waits at its end for what is under way; raises to give up.
            patient: wait for each answer, also where a server is suspended; go on after faults,
                and read features beside.
            look: called again and again beside a patient load, with a client and the time of the
                newest event.
        """
        self.stream = Stream(seed)
        self.upserts: list[Item] = []
        self.acknowledged = 0
        self.positions: list[Position] = []
        self.faults: list[str] = []
        self.answer_s = self.acknowledged_s = 0.0
        self._patient = patient
        self._look = look
        self._timeout_s = _PATIENT_S if patient else _TIMEOUT_S
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
        if patient:
            self._threads.append(threading.Thread(target=self._read, daemon=True))

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
        with Client(self._url, timeout=self._timeout_s, retries=0) as client:
            self._post(client, "events", events, self._watch)
        self.stream.given += events

    def _run(self, number: int, seed: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        mine = ITEMS[number::_WRITERS]
        try:
            with Client(self._url, timeout=self._timeout_s, retries=0) as client:
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

    def _read(self) -> None:
        """Ask for features until the load stops."""
        try:
            with Client(self._url, timeout=self._timeout_s, retries=0) as client:
                while not self._stopping.wait(_READ_S):
                    with suppress(ConnectionFailed, Busy, ServerFault):
                        self._timed(lambda: client.features(PEOPLE[0]))
                    self._look(client, self.stream.newest)
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
        send: Callable[[Any], Any] = client.events if kind == "events" else client.items
        began = time.monotonic()
        while True:
            try:
                answer = self._timed(lambda: send(bodies))
                break
            except (ConnectionFailed, Busy, ServerFault) as error:
                if isinstance(error, ServerFault) and not self._patient:
                    raise
                if watch is not None:
                    watch()
                elif self._over.is_set():
                    raise
                time.sleep(_RETRY_S)
        told = answer.accepted + (answer.duplicates if kind == "events" else 0)
        if answer.rejected or told != len(bodies):
            raise ClientError(f"{kind} were not taken as they are: {answer}")
        with self._lock:
            self.acknowledged_s = max(self.acknowledged_s, time.monotonic() - began)
            self.acknowledged += 1
            self.positions = [latest([*self.positions, answer.position])]

    def _timed(self, request: Callable[[], Any]) -> Any:
        """Make one request, and note how long its answer took."""
        began = time.monotonic()
        try:
            answer = request()
        except ApiError as error:
            self._answered(began)
            if isinstance(error, ServerFault):
                self.faults.append(str(error)[:300])
            raise
        self._answered(began)
        return answer

    def _answered(self, began: float) -> None:
        with self._lock:
            self.answer_s = max(self.answer_s, time.monotonic() - began)
