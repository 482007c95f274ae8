"""An installation on three brokers of Apache Kafka, of which everything is struck at any moment.

In the end all must be there that was acknowledged, once, and all must be what an engine makes of
the same load that nobody disturbed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from benchmarks.kills.chaos import KINDS, Chaos, Report
from benchmarks.kills.cluster import Cluster
from benchmarks.kills.installation import Installation
from benchmarks.kills.processes import TACTFUL, Failures, Victim
from benchmarks.kills.servers import kafka_settings, redis_settings
from benchmarks.kills.sinks import compare_rows
from benchmarks.kills.topics import Arrivals, Committed, Stalled, partitions_of, values_of
from benchmarks.kills.truth import Outcome, Truth, served, table
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.sinks.sql import SqlRows

_PARTITIONS = 4
_WORKERS = 2
_COPIES = 3
_RATE = 200.0
_CATCH_UP_S = 60.0
_ANSWER_S = 2.0
_PAUSE_S = 0.05
_REPORTS = Path(__file__).resolve().parents[2] / "reports" / "kills"


def on_cluster(
    kills: int,
    folder: Path,
    seed: int,
    cluster: Cluster,
    redis_url: str,
    *,
    kinds: Sequence[str] = KINDS,
    outages: bool = True,
    launcher: Sequence[str] = TACTFUL,
) -> Report:
    """Strike processes of an installation, which begins anew.

    An interrupt, or 75 minutes, end the strikes; what was struck until then is compared.

    Args:
        kills: how often to strike, at least.
        folder: for all files, not there yet. Logs stay in `reports/kills` where a process failed.
        seed: of load and strikes.
        cluster: the brokers.
        redis_url: address of Redis.
        kinds: which processes to strike.
        outages: also fill disks, and leave no broker for a minute.
        launcher: what starts the command line; no logs are kept of a broken one.
    """
    report = Report(seed, kills)
    topic, fired = f"killed-{seed}", f"fired-{seed}"
    ensure_topic(KafkaSettings(cluster.servers, fired), partitions=_PARTITIONS, replication=_COPIES)
    place = _installation(folder, seed, cluster, redis_url, launcher, report.failures)
    location = f"sqlite:///{folder / 'sink.db'}"
    arguments = ["sink", "--kafka", cluster.servers, "--topic", fired, "--group", fired, "--json"]
    sink = place.process("sink", arguments, {"TACTFUL_SINK_TARGET": location})
    beside = {
        f"worker-{number}": ["worker", "--json", "--data", str(folder / f"worker-{number}")]
        for number in range(_WORKERS)
    }
    written = Committed(cluster.servers, fired, fired, _PARTITIONS, answer_s=_ANSWER_S)
    arrivals = Arrivals(cluster.servers, fired, _PARTITIONS)
    with (folder / "strikes.log").open("w") as journal, closing(written), closing(arrivals):
        victim, write = Victim(sink, _Last(written)), partial(print, file=journal, flush=True)
        chaos = Chaos(report, cluster, victim, arrivals, write)
        chaos.plan(kinds, outages)
        try:
            sink.start()
            log = partial(values_of, cluster.servers, topic)
            truth = place.run(
                *(report.outcome, chaos, beside, log, partitions_of(_PARTITIONS)),
                last=chaos.strike_last,
            )
            place.check_state(report.outcome, truth, ("item", "category"))
            rows = table(values_of(cluster.servers, fired))
            report.outcome.comparison.same_all("window", rows, truth.fired())
            _compare_sink(report.outcome, location, truth, sink.check)
            report.outcome.comparison.same("exit code of the sink", sink.stop(), 0)
        except (Stalled, RuntimeError, AssertionError) as error:
            report.problem = f"{type(error).__name__}: {error}"[:400]
        finally:
            sink.kill()
    if not report.sound and launcher == TACTFUL:
        _keep_logs(report, folder)
    return report


class _Last:
    """A value that cannot be had while no broker answers; the last one then."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self._value: object = None

    def __call__(self) -> object:
        from confluent_kafka import KafkaException

        try:
            self._value = self._ask()
        except KafkaException:
            time.sleep(_PAUSE_S)
        return self._value


def _installation(
    folder: Path,
    seed: int,
    cluster: Cluster,
    redis_url: str,
    launcher: Sequence[str],
    failures: Failures,
) -> Installation:
    topic = f"killed-{seed}"
    environment = {
        **kafka_settings(cluster.servers, topic),
        **redis_settings(redis_url, folder),
        "TACTFUL_LOG__REPLICATION": str(_COPIES),
        "TACTFUL_WORKER__GROUP": topic,
        "TACTFUL_WORKER__FIRED_TOPIC": f"fired-{seed}",
        "TACTFUL_WORKER__IDLE_S": "86400",  # time passes by events alone, as on the server
        "TACTFUL_WORKER__CHECKPOINTS": str(folder / "checkpoints"),
        "TACTFUL_WORKER__CHECKPOINT_S": "20",
        "PYTHONFAULTHANDLER": "1",  # for the stacks of what hangs
    }
    (folder / "checkpoints").mkdir(parents=True)
    return Installation(folder, seed, environment, launcher, _RATE, failures=failures)


def _keep_logs(report: Report, folder: Path) -> None:
    kept = _REPORTS / str(report.seed)
    states = shutil.ignore_patterns("data", "worker-?", "checkpoints", "*.db*")
    shutil.copytree(folder, kept, ignore=states, dirs_exist_ok=True)
    failures = report.failures
    texts = [*failures.hung, *failures.ended, *report.faults, *report.outcome.comparison.examples]
    (kept / "failures.txt").write_text("\n\n".join([*texts, report.problem]), "utf-8")
    report.notes.append(f"logs are in {kept}")


def _compare_sink(outcome: Outcome, location: str, truth: Truth, check: Callable[[], None]) -> None:
    """Compare the rows of the sink, once it has written the last ones."""
    expected = served(truth.fired())
    fewest, until = None, 0.0
    with closing(SqlRows(location)) as target:
        while True:
            check()
            found = Outcome("")
            compare_rows(found, target, expected)
            if fewest is None or found.comparison.wrong < fewest:
                fewest, until = found.comparison.wrong, time.monotonic() + _CATCH_UP_S
            if not found.comparison.wrong or time.monotonic() > until:
                break
            time.sleep(1.0)
    outcome.lost += found.lost
    outcome.comparison.add(found.comparison)
