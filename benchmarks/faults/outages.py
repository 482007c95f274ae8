"""A whole installation under load and in trouble, round by round.

A round begins an installation of its own: one server on files, or a server and workers on three
brokers, Redis and MariaDB. In the end all must be there that was acknowledged, once; all values are
those of an engine that nobody disturbed; published numbers are as they were first shown. The result
of a round is appended to a file, from which an interrupted run goes on.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from benchmarks.faults.network import Link
from benchmarks.faults.releases import Releases, overspent_days, write_definitions
from benchmarks.faults.strikes import (
    Fault,
    Strikes,
    broker_disk_fault,
    clock_faults,
    full_disk_fault,
    link_faults,
    memory_fault,
    process_faults,
    set_clock,
    slow_disk_fault,
)
from benchmarks.figures import Figure, commit
from benchmarks.kills.chaos import Target
from benchmarks.kills.cluster import cluster, missing
from benchmarks.kills.installation import Installation, event_ids
from benchmarks.kills.load import Load
from benchmarks.kills.processes import TACTFUL, Failures, Process, Victim
from benchmarks.kills.servers import kafka_settings, redis_settings
from benchmarks.kills.topics import Stalled, partitions_of, values_of
from benchmarks.kills.truth import Outcome, Truth
from benchmarks.ports import await_port, free_port
from benchmarks.rounds import KeptRound, keep_round, read_rounds
from benchmarks.services import mariadb_command, mariadb_url
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.log.embedded_log import EmbeddedLog

FIGURES: Final = (
    ("faults_injected", "faults"),
    ("acknowledged_events_lost", "events"),
    ("wrong_values", "values"),
    ("faults_overspent_budgets", "numbers"),
    ("faults_failed_processes", "processes"),
    ("recovery_p95_s", "s"),
)
PLACES: Final = ("embedded", "distributed")

_FAULTS, _FAULTS_OF_ROUND = 500, 20
_QUICK_FAULTS = 10
_SEED = 71
_DISK_MB = 256
_PARTITIONS, _COPIES, _WORKERS = 4, 3, 2
_RATE = {"embedded": 600.0, "distributed": 200.0}
_FAKETIME = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")
_REPORTS = Path(__file__).resolve().parents[2] / "reports" / "outages"


class Round(KeptRound, frozen=True):
    """Result of one round, a line of the file."""

    seed: int
    place: str
    faults: dict[str, int]  # number by kind
    recovery_s: list[float]  # from the end of each fault until all was at work
    acknowledged: int  # events
    lost: int  # of them
    wrong: int  # values that differ from those of a quiet run, and what is there twice
    compared: int  # values
    released: int  # published numbers that were read
    overspent: int  # those that changed, and days with more loss than the budget
    failed: list[str]  # processes that hung, or ended by themselves for good
    restarts: int  # ends by themselves after which a supervisor starts a process again
    faulty_answers: int  # answers with a status of 500 or more, but 503
    notes: list[str]

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, wrong or overspent, and nothing failed."""
        return not (self.lost or self.wrong or self.overspent or self.failed)


def outages(quick: bool, done: Path | None, wanted: int | None = None) -> list[Figure]:
    """Disturb installations; count what was lost, wrong or overspent.

    Args:
        quick: one short round of each installation.
        done: file of the rounds that an interrupted run of this commit has finished; None: none.
        wanted: how many faults; None: 500.
    """
    of_round = _QUICK_FAULTS if quick else _FAULTS_OF_ROUND
    wanted = wanted or (len(PLACES) * _QUICK_FAULTS if quick else _FAULTS)
    rounds = finished(done, of_round)
    while sum(sum(one.faults.values()) for one in rounds) < wanted:
        place = PLACES[len(rounds) % len(PLACES)]
        with tempfile.TemporaryDirectory(prefix="tactful-faults-") as scratch:
            rounds.append(run_round(place, _SEED + len(rounds), of_round, Path(scratch)))
        keep_round(done, rounds[-1])
    return as_figures(rounds)


def finished(file: Path | None, faults: int) -> list[Round]:
    """Return the rounds of this commit with at least so many faults each that a file names."""
    return [one for one in read_rounds(file, Round) if sum(one.faults.values()) >= faults]


def as_figures(rounds: Sequence[Round]) -> list[Figure]:
    """Return the figures of all rounds together."""
    kinds = sum((Counter(one.faults) for one in rounds), Counter[str]())
    recovery = [seconds for one in rounds for seconds in one.recovery_s]
    listed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    seeds = f"{len(rounds)} rounds, seeds from {rounds[0].seed}"
    notes = list(dict.fromkeys(note for one in rounds for note in one.notes))
    return [
        Figure("faults_injected", kinds.total(), "faults", note="; ".join([seeds, listed, *notes])),
        Figure(
            "acknowledged_events_lost",
            sum(one.lost for one in rounds),
            "events",
            note=f"of {sum(one.acknowledged for one in rounds):,} acknowledged",
        ),
        Figure(
            "wrong_values",
            sum(one.wrong for one in rounds),
            "values",
            note=f"of {sum(one.compared for one in rounds):,} that were compared with a quiet run",
        ),
        Figure(
            "faults_overspent_budgets",
            sum(one.overspent for one in rounds),
            "numbers",
            note=f"of {sum(one.released for one in rounds):,} published numbers, read each second "
            "until the end of the load, and days of the ledger",
        ),
        Figure(
            "faults_failed_processes",
            sum(len(one.failed) for one in rounds),
            "processes",
            note=f"hung, or ended for good by themselves; {sum(one.restarts for one in rounds)} "
            f"asked to be started again; {sum(one.faulty_answers for one in rounds)} answers of "
            "500 or more beside 503",
        ),
        Figure(
            "recovery_p95_s",
            float(np.percentile(recovery, 95)),
            "s",
            runs=len(recovery),
            note=f"median {np.median(recovery):.1f}, longest {max(recovery):.1f}: from the end of "
            "a fault until the server acknowledges and all workers apply",
        ),
    ]


def run_round(
    place: str, seed: int, faults: int, folder: Path, launcher: Sequence[str] = TACTFUL
) -> Round:
    """Run one round in an empty folder.

    Raises:
        FileNotFoundError: if something is not installed that the place needs.
    """
    found = _Found(Releases(seed), random.Random(seed))
    problem = ""
    try:
        with (folder / "strikes.log").open("w") as journal:
            found.write = partial(print, file=journal, flush=True)
            run = _embedded if place == "embedded" else _distributed
            run(found, seed, faults, folder, launcher)
    except (Stalled, RuntimeError, AssertionError) as error:
        problem = f"{type(error).__name__}: {error}"[:2000]
    failures, outcome, strikes = found.failures, found.outcome, found.strikes
    overspent = [*found.releases.changed, *found.overspent]
    wrong = outcome.comparison.examples
    result = Round(
        commit=commit(),
        seed=seed,
        place=place,
        faults=dict(strikes.counts) if strikes else {},
        recovery_s=[round(one, 2) for one in strikes.recovery_s] if strikes else [],
        acknowledged=outcome.acknowledged,
        lost=outcome.lost,
        wrong=outcome.comparison.wrong + outcome.doubled,
        compared=outcome.comparison.compared,
        released=len(found.releases.seen),
        overspent=len(overspent),
        failed=[*failures.hung, *failures.ended, *([problem] if problem else [])],
        restarts=failures.restarts.total(),
        faulty_answers=found.faulty_answers,
        notes=found.notes,
    )
    if not result.sound and launcher == TACTFUL:
        kept = _keep_logs(folder, place, seed, [*result.failed, *wrong, *overspent])
        result = msgspec.structs.replace(result, notes=[*result.notes, f"logs are in {kept}"])
    if not result.faults:
        raise RuntimeError(f"the {place} installation did not come to work: {problem}")
    return result


@dataclass
class _Found:
    """What a round finds while it runs."""

    releases: Releases
    rng: random.Random
    write: Callable[[str], None] = print
    failures: Failures = field(default_factory=Failures)
    outcome: Outcome = field(default_factory=lambda: Outcome("faults"))
    strikes: Strikes | None = None
    overspent: list[str] = field(default_factory=list)
    faulty_answers: int = 0
    notes: list[str] = field(default_factory=list)

    def disturb(
        self,
        faults: Callable[[Mapping[str, Process]], list[Fault]],
        wanted: int,
        await_whole: Callable[[], None],
        beside: Sequence[Process],
        victims: Sequence[Victim],
        load: Load,
    ) -> int:
        """Strike; the faults are those of the processes."""
        processes = {victim.process.name: victim.process for victim in victims}
        self.strikes = Strikes(
            *(faults(processes), wanted, self.rng, self.failures, self.write),
            await_whole=await_whole,
            beside=beside,
        )
        try:
            return self.strikes(victims, load)
        finally:
            self.faulty_answers = len(load.faults)


def _embedded(found: _Found, seed: int, wanted: int, folder: Path, launcher: Sequence[str]) -> None:
    """A server on files, on a small disk of its own, with a clock of its own."""
    data, clock = folder / "data", folder / "clock"
    set_clock(clock, 0)
    fake = [str(path) for pattern in _FAKETIME for path in Path("/").glob(pattern[1:])]
    environment = _statistics(folder) | {"PYTHONFAULTHANDLER": "1"}
    if fake:
        environment |= {
            "LD_PRELOAD": fake[0],
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    else:
        found.notes.append("no clock was stepped: install libfaketime")

    def faults(processes: Mapping[str, Process]) -> list[Fault]:
        server = processes["server"]
        every = [*process_faults(server, found.failures), memory_fault(server)]
        if fake:
            every += clock_faults(clock)
        if small:
            every.append(full_disk_fault(data))
        else:
            found.notes.append("no disk was filled: only root may mount a small one")
        return every

    def log() -> list[bytes]:
        with EmbeddedLog(data / "log", read_only=True) as opened:
            return [payload for _, payload in opened.read(opened.begin, opened.end)]

    with _small_disk(data) as small:
        place = _installation(found, folder, seed, environment, launcher, "embedded")
        disturb = partial(found.disturb, faults, wanted, lambda: None, ())
        truth = place.run(found.outcome, disturb, {}, log, ["close"])
        ids = event_ids(log())
        found.outcome.comparison.same("events twice in the log", len(ids) - len(set(ids)), 0)
        place.check_state(found.outcome, truth, ("user", "session", "item", "category"))
        found.overspent = overspent_days(str(data / "ledger.db"))


def _distributed(
    found: _Found, seed: int, wanted: int, folder: Path, launcher: Sequence[str]
) -> None:
    """A server and workers on three brokers, Redis and MariaDB, the last two behind links."""
    if problem := missing():
        raise FileNotFoundError(problem)
    topic, fired = f"struck-{seed}", f"fired-{seed}"
    with ExitStack() as stack:
        brokers = stack.enter_context(cluster(folder / "cluster"))
        settings = KafkaSettings(brokers.servers, fired)
        ensure_topic(settings, partitions=_PARTITIONS, replication=_COPIES)
        redis, redis_link = _redis(stack, folder, found.failures)
        database, database_link = _database(stack, folder, found.failures)
        address = mariadb_url(database_link.port)
        environment = {
            **_statistics(folder),
            **kafka_settings(brokers.servers, topic),
            **redis_settings(f"redis://127.0.0.1:{redis_link.port}/0", folder),
            "TACTFUL_LOG__REPLICATION": str(_COPIES),
            "TACTFUL_METADATA__URL_ENV": "STRUCK_DATABASE",
            "TACTFUL_STATISTICS__LEDGER_URL_ENV": "STRUCK_DATABASE",
            "STRUCK_DATABASE": address,
            "TACTFUL_WORKER__GROUP": topic,
            "TACTFUL_WORKER__FIRED_TOPIC": fired,
            "TACTFUL_WORKER__IDLE_S": "86400",  # time passes by events alone, as on the server
            "TACTFUL_WORKER__CHECKPOINTS": str(folder / "checkpoints"),
            "TACTFUL_WORKER__CHECKPOINT_S": "20",
            "PYTHONFAULTHANDLER": "1",
        }
        (folder / "checkpoints").mkdir()

        def faults(processes: Mapping[str, Process]) -> list[Fault]:
            every = [*link_faults("Redis", redis_link), *link_faults("database", database_link)]
            targets: list[Target] = [*processes.values(), redis, database, *brokers.brokers]
            for target in targets:
                every += process_faults(target, found.failures)
            every += [slow_disk_fault(folder), memory_fault(processes["worker-0"])]
            if brokers.no_disks is None:
                every.append(broker_disk_fault(brokers.brokers[0]))
            return every

        beside = {
            f"worker-{number}": ["worker", "--json", "--data", str(folder / f"worker-{number}")]
            for number in range(_WORKERS)
        }
        place = _installation(found, folder, seed, environment, launcher, "distributed")
        disturb = partial(found.disturb, faults, wanted, brokers.await_whole, (redis, database))
        log = partial(values_of, brokers.servers, topic)
        truth: Truth = place.run(found.outcome, disturb, beside, log, partitions_of(_PARTITIONS))
        place.check_state(found.outcome, truth, ("item", "category"))
        found.overspent = overspent_days(address)


def _installation(
    found: _Found,
    folder: Path,
    seed: int,
    environment: Mapping[str, str],
    launcher: Sequence[str],
    place: str,
) -> Installation:
    return Installation(
        *(folder, seed, environment, launcher, _RATE[place]),
        failures=found.failures,
        look=found.releases.look,
    )


def _statistics(folder: Path) -> dict[str, str]:
    """Return settings of statistics whose panes the load itself closes."""
    write_definitions(folder / "statistics.yaml")
    return {
        "TACTFUL_STATISTICS__DEFINITIONS": str(folder / "statistics.yaml"),
        "TACTFUL_STATISTICS__CLOCK": "replay",
    }


def _redis(stack: ExitStack, folder: Path, failures: Failures) -> tuple[Process, Link]:
    """Start a Redis that loses nothing when it is killed, behind a link."""
    port = free_port()
    words = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "yes"]
    words += ["--dir", str(folder)]
    return _behind_link(stack, "redis", "redis-server", words, port, folder, failures)


def _database(stack: ExitStack, folder: Path, failures: Failures) -> tuple[Process, Link]:
    """Start a MariaDB behind a link."""
    port = free_port()
    program, *words = mariadb_command(folder, port)
    return _behind_link(stack, "mariadb", program, words, port, folder, failures)


def _behind_link(
    stack: ExitStack,
    name: str,
    program: str,
    words: Sequence[str],
    port: int,
    folder: Path,
    failures: Failures,
) -> tuple[Process, Link]:
    process = Process(words, folder, name, environment={}, launcher=(program,), failures=failures)
    process.start()
    stack.callback(process.kill)
    await_port(port)
    return process, stack.enter_context(Link(free_port(), port))


@contextmanager
def _small_disk(place: Path) -> Iterator[bool]:
    """Mount a small disk in memory; the value is whether that was possible."""
    place.mkdir(mode=0o700)
    options = ["-t", "tmpfs", "-o", f"size={_DISK_MB}m,mode=700", "tmpfs", str(place)]
    mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=False)


def _keep_logs(folder: Path, place: str, seed: int, failures: Sequence[str]) -> Path:
    """Keep what processes logged, and the faults."""
    kept = _REPORTS / f"{place}-{seed}"
    kept.mkdir(parents=True, exist_ok=True)
    for file in (*folder.glob("*.log"), *folder.glob("*.out")):
        shutil.copy(file, kept)
    (kept / "failures.txt").write_text("\n\n".join(failures), "utf-8")
    print(f"logs are in {kept}", file=sys.stderr)
    return kept
