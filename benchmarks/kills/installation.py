"""An installation under load and in trouble, compared with a run that nobody disturbs."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.kills.load import (
    ACTION,
    CATEGORIES,
    COUNTS,
    DEFINITIONS,
    DELAY_MS,
    ITEMS,
    LATENESS_MS,
    PEOPLE,
    Load,
)
from benchmarks.kills.processes import NUDGE_S, Failures, Process, Victim, kill_at_random
from benchmarks.kills.topics import BrokerFault, Stalled
from benchmarks.kills.truth import Comparison, Outcome, Truth
from benchmarks.ports import free_port
from tactful.client import Client
from tactful.config.storage import OnlineSettings
from tactful.errors import ClientError
from tactful.metadata.connections import open_redis
from tactful.pipeline.online_features import own_definitions
from tactful.schemas.positions import Position, covers
from tactful_streaming.contract.log_entries import Event, decode_entry
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import RocksState
from tactful_streaming.windows.entity_table import read_packed

_PACKAGED = Path(__file__).resolve().parents[2] / "platform" / "tactful" / "features.yaml"
_FAR_MS = 7_200_000
_ARRIVAL_S = 180.0
_ACTIONS_S = 20.0
_FORWARDED_S = 15.0
_SETTLING_S = 1.0
_NO_MORE: Mapping[str, str] = MappingProxyType({})


Disturb = Callable[[Sequence[Victim], Load], int]
"""What happens to running processes under a load; returns how many were struck."""


def killing(kills: int, seed: int, names: Collection[str] = ("server",)) -> Disturb:
    """Kill those whose names begin with one of `names`, so many times; see `kill_at_random`."""

    def disturb(victims: Sequence[Victim], load: Load) -> int:
        chosen = [it for it in victims if it.process.name.startswith(tuple(names))]
        kill_at_random(chosen, kills, random.Random(seed), check=load.check)
        return sum(victim.kills for victim in chosen)

    return disturb


def event_ids(records: Sequence[bytes]) -> list[str]:
    """Return the ids of the events of a log."""
    return [entry.event_id for entry in map(decode_entry, records) if isinstance(entry, Event)]


def redis_prefix(folder: Path) -> str:
    """Return the prefix of the keys of an installation in Redis."""
    return f"killed-{folder.name}"


class Installation:
    """A server in a folder, and workers beside it."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        environment: Mapping[str, str],
        launcher: Sequence[str],
        rate: float,
        judge: Callable[[], str | None] = lambda: None,
        nudge: Callable[[], None] = lambda: None,
        failures: Failures | None = None,
        look: Callable[[Client, int], None] = lambda client, newest: None,
    ) -> None:
        """Lay the files out.

        Args:
            folder: for all files.
            seed: of the load.
            environment: of all processes.
            launcher: what starts the command line.
            rate: most events a second.
            judge: what the broker does wrong, asked when all processes have died.
            nudge: called now and then while nothing happens.
            failures: where ends that nobody asked for are recorded; None: they are errors.
            look: see `Load`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        features = folder / "features.yaml"
        features.write_text(_PACKAGED.read_text("utf-8") + DEFINITIONS, "utf-8")
        self._definitions: Definitions = load_definitions(features)
        self._folder = folder
        self._seed = seed
        self._launcher = launcher
        self._rate = rate
        self._judge = judge
        self._nudge = nudge
        self._failures = failures
        self._look = look
        self._running: tuple[Process, ...] = ()
        self._environment = {
            "TACTFUL_ENGINE__FEATURES": str(features),
            "TACTFUL_ENGINE__WATERMARK_DELAY_MS": str(DELAY_MS),
            "TACTFUL_ENGINE__ALLOWED_LATENESS_MS": str(LATENESS_MS),
            "TACTFUL_ENGINE__CLOCK": "events",
            # More commits than by default are more moments to die in the midst of one.
            "TACTFUL_ENGINE__COMMIT_MS": "200",
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            **environment,
        }

    def run(
        self,
        outcome: Outcome,
        disturb: Disturb,
        beside: Mapping[str, Sequence[str]],
        log: Callable[[], list[bytes]],
        closing: Sequence[str],
        last: Callable[[], None] = lambda: None,
    ) -> Truth:
        """Disturb a server, and workers beside it; then compare all that can be asked of it.

        Args:
            outcome: is filled.
            disturb: what happens to the processes.
            beside: arguments of workers, by name.
            log: reads the whole log.
            closing: people of whom one lies in each partition.
            last: called once all windows have ended.

        Raises:
            BrokerFault: if the run stood still, and the broker is at fault.
            Stalled: if it stood still, and the broker is not.
            RuntimeError: if a process ended.
        """
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        serve = ["serve", "--dev", "--json", "--port", str(port)]
        server = self.process("server", [*serve, "--data", str(self._folder / "data")])
        others = [self.process(name, arguments) for name, arguments in beside.items()]
        try:
            server.start()
            server.await_word()
            for other in others:
                other.start()
            self._running = (server, *others)
            load = Load(
                url,
                self._seed,
                rate=self._rate,
                watch=self._check,
                patient=self._failures is not None,
                look=self._look,
            )
            targets = [Victim(server, lambda: load.acknowledged)]
            targets += [
                Victim(other, partial(_entries, other), nudge=self._nudge) for other in others
            ]
            with load:
                outcome.kills = disturb(targets, load)
            truth = self._ask(outcome, url, load, closing, last)
            records = self._await_actions(outcome, log, truth)
            _stop(outcome, server, others)
        except Stalled as stall:
            for process in (server, *others):
                process.kill()
            if fault := self._judge():
                raise BrokerFault(f"{fault}: {stall}") from stall
            raise
        finally:
            for process in (server, *others):
                process.kill()
        acknowledged = {event.event_id for event in load.stream.given}
        outcome.acknowledged = len(acknowledged)
        outcome.lost = len(acknowledged - set(event_ids(records)))
        actions = _actions(records)
        outcome.doubled += len(actions) - len(set(actions))
        outcome.comparison.once("action", actions, truth.actions())
        return truth

    def check_state(self, outcome: Outcome, truth: Truth, entities: Sequence[str]) -> None:
        """Compare the state of the server's engine, which has stopped, by entity."""
        shared = not {"user", "session"} & set(entities)
        definitions = own_definitions(self._definitions) if shared else self._definitions
        engine = Engine(definitions, RocksState(self._folder / "data" / "state"))
        at = truth.engine.watermark
        for entity, keys in {
            "user": PEOPLE,
            "session": truth.visits(),
            "item": ITEMS,
            "category": CATEGORIES,
        }.items():
            for key in keys if entity in entities else ():
                found, expected = (it.read(entity, key, at) for it in (engine, truth.engine))
                outcome.comparison.same_all(f"{entity} {key} in the state:", found, expected)
        outcome.comparison.same("catalogue", *(_catalogue(e) for e in (engine, truth.engine)))
        engine.close()

    def check_copy(self, outcome: Outcome, truth: Truth) -> None:
        """Compare the copy in Redis that the server wrote, which has stopped."""
        online = OnlineSettings(kind="redis", prefix=redis_prefix(self._folder))
        store = open_redis(online, self._definitions, environ=self._environment)
        at = truth.engine.watermark
        for kind, keys in {"user": PEOPLE, "session": truth.visits(), "item": ITEMS}.items():
            features = self._definitions.of_entity(kind)
            for key, blob in zip(keys, store.get_many(keys, kind=kind), strict=True):
                expected = truth.engine.read(kind, key, at)
                found = read_packed(features, blob, at)
                expected = {name: expected[name] for name in found}
                outcome.comparison.same_all(f"{kind} {key} in Redis:", found, expected)
        store.close()

    def process(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str] = _NO_MORE
    ) -> Process:
        """Return a command of the installation, which does not run yet."""
        return Process(
            arguments,
            self._folder,
            name,
            environment={**self._environment, **environment},
            launcher=self._launcher,
            failures=self._failures,
        )

    def _check(self) -> None:
        """See that all processes run: what is waited for does not come from one that has ended."""
        for process in self._running:
            process.check()

    def _ask(
        self,
        outcome: Outcome,
        url: str,
        load: Load,
        closing: Sequence[str],
        last: Callable[[], None],
    ) -> Truth:
        """Compare the features of all people, before and after all windows have ended."""
        truth = Truth(self._definitions)
        truth.apply(load.upserts)
        truth.apply(load.stream.given)
        now = load.stream.newest
        with Client(url, timeout=30.0) as client:
            _await_position(client, load.position, self._check, self._nudge)
            for at in (now, now + 200_000):
                self._compare_people(outcome, client, truth, at)
            end = now + _FAR_MS
            ends = [
                Event(event_id=f"close:{user}", type="leave", timestamp=end, user_id=user)
                for user in closing
            ]
            load.close_windows(ends)
            truth.apply(ends)
            _await_position(client, load.position, self._check, self._nudge)
            last()
            self._compare_people(outcome, client, truth, end)
        return truth

    def _compare_people(self, outcome: Outcome, client: Client, truth: Truth, at: int) -> None:
        """Compare the features of all people, once what goes between partitions has arrived."""
        fewest, until = math.inf, 0.0
        patience_s = _patience_s(outcome, _FORWARDED_S)
        while True:
            self._check()
            comparison, outcome.doubled = Comparison(), 0
            for person in PEOPLE:
                found = client.features(person, at=at).features
                # What sequences found is not in the copies that workers make.
                expected = truth.engine.read("user", person, at)
                names = {feature.name for feature in self._definitions.of_entity("user")}
                expected = {name: expected[name] for name in names | found.keys()}
                comparison.same_all(f"user {person} at {at}:", found, expected)
                outcome.doubled += sum(_surplus(found, expected, name) for name in COUNTS)
            if comparison.wrong < fewest:
                fewest, until = comparison.wrong, time.monotonic() + patience_s
            if not comparison.wrong or time.monotonic() > until:
                outcome.comparison.add(comparison)
                return
            time.sleep(0.5)

    def _await_actions(
        self, outcome: Outcome, log: Callable[[], list[bytes]], truth: Truth
    ) -> list[bytes]:
        """The log once it holds as many actions as it should, and had time for more."""
        most, until = -1, 0.0
        patience_s = _patience_s(outcome, _ACTIONS_S)
        while (count := len(_actions(log()))) < len(truth.actions()):
            self._check()
            if count > most:
                most, until = count, time.monotonic() + patience_s
            elif time.monotonic() > until:
                break
            time.sleep(0.2)
        time.sleep(_SETTLING_S)
        return log()


def _patience_s(outcome: Outcome, seconds: float) -> float:
    """Return how long to wait for what is late: a run that has failed waits no more."""
    return 0.0 if outcome.comparison.wrong else seconds


def _stop(outcome: Outcome, server: Process, workers: Sequence[Process]) -> None:
    """End all, and see that they do so in good order."""
    codes = {process.name: process.stop() for process in (server, *workers)}
    outcome.comparison.same_all("exit code", codes, dict.fromkeys(codes, 0))
    for worker in workers:
        partitions = _told(worker)["partitions"].values()
        left = [it["offset"] - it["committed"] for it in partitions]
        outcome.comparison.same("applied and not committed", left, [0] * len(left))


def _surplus(found: Mapping[str, Any], expected: Mapping[str, Any], name: str) -> int:
    """How many more events a feature counts than there are."""
    return max(int(found.get(name) or 0) - int(expected.get(name) or 0), 0)


def _entries(worker: Process) -> int:
    """How many entries a worker says it has applied since it was started."""
    return int(_told(worker).get("entries", 0))


def _told(worker: Process) -> dict[str, Any]:
    """The last progress that a worker has told whole."""
    said = [line for line in worker.said().splitlines(keepends=True) if line.endswith("\n")]
    return dict(json.loads(said[-1])) if said else {}


def _await_position(
    client: Client, position: Position, check: Callable[[], None], nudge: Callable[[], None]
) -> None:
    """Wait until the features cover `position`, as long as they come closer to it."""
    before, until = None, 0.0
    nudged = time.monotonic()
    while True:
        check()
        if time.monotonic() > nudged + NUDGE_S:
            nudge()
            nudged = time.monotonic()
        reached, problem = before, None
        try:
            reached = client.features(PEOPLE[0]).position
        except ClientError as error:
            problem = error
        if reached is not None and covers(reached, position):
            return
        if reached != before or not until:
            before, until = reached, time.monotonic() + _ARRIVAL_S
            nudged = time.monotonic()
        elif time.monotonic() > until:
            raise Stalled(
                f"what was acknowledged does not show: features are at {reached}, not at {position}"
            ) from problem
        time.sleep(0.05)


def _actions(records: Sequence[bytes]) -> list[str]:
    entries = map(decode_entry, records)
    return [it.event_id for it in entries if isinstance(it, Event) and it.type == ACTION]


def _catalogue(engine: Engine) -> dict[str, tuple[object, ...]]:
    return {key: (item.category, item.price) for key, item in engine.items.items()}
