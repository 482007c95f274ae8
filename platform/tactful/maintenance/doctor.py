"""Checks of everything a server needs, with the cure of each problem."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tactful.client import Client
from tactful.config.ledger_location import ledger_location, named
from tactful.config.privacy import DAY_MS, retention_limits
from tactful.config.settings import Settings, secret
from tactful.errors import ClientError, ModelError, TactfulError
from tactful.event_log.encryption import open_seal
from tactful.experiment_metrics.definitions import load_metrics
from tactful.http.tls.certificate import Certificate
from tactful.maintenance.check_encoders import check_picture_encoder, check_text_encoder
from tactful.maintenance.check_flink import check_flink
from tactful.maintenance.check_model import check_model
from tactful.maintenance.check_speech import check_speech
from tactful.maintenance.retention import PROGRESS, read_progress
from tactful.metadata.connections import kafka_settings, open_keys, open_redis, topic_problems
from tactful.metadata.directory_lock import exclusive, open_directory
from tactful.metadata.lease import LeaseState, process_of, read_lease
from tactful.ranking.features import absent_features
from tactful.rerank.arm_policy import Policy, policies, ranking_experiment
from tactful.rerank.placement_rules import load_placement
from tactful.subjects.erasure_requests import ErasureJobs
from tactful.util.addresses import is_loopback
from tactful.util.clock import now_ms
from tactful.util.extras import EXTRAS, absent_modules
from tactful_privacy.errors import ParameterError, PrivacyError
from tactful_privacy.ledger.ledger import Ledger
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import StreamingError, TopicError
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.patterns.factory import make_operators
from tactful_streaming.rules.rules import load_rules

State = Literal["ok", "warning", "failed"]
Finding = tuple[State, str]

_SERVERS = ("kafka", "redis", "mysql", "postgres")
_EXTRAS = ("federated", "dashboard", "terminal", *_SERVERS, "demo")
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
    """Run all checks."""
    yield Check("python", *_python())
    for extra in _EXTRAS:
        missing = absent_modules(EXTRAS[extra])
        said = f"{', '.join(missing)} not installed: pip install 'tactful[{extra}]'"
        yield Check(f"extra {extra}", *(("warning", said) if missing else ("ok", "installed")))
    for name, check in _checks(settings):
        try:
            finding = check(settings)
        except (OSError, TactfulError, StreamingError, PrivacyError) as error:
            finding = "failed", str(error)
        yield Check(name, *finding)
    yield from _metadata(settings)


def examine_running(settings: Settings) -> Iterator[Check]:
    """Run the checks that are useful beside a running server, and disturb it in nothing."""
    checks = {"space": _room, "permissions": _permissions, "model": _model}
    for name, check in (checks | {"retention": _retention}).items():
        try:
            finding = check(settings)
        except (OSError, TactfulError, StreamingError, PrivacyError) as error:
            finding = "failed", str(error)
        yield Check(name, *finding)


def _checks(settings: Settings) -> Iterator[tuple[str, Callable[[Settings], Finding]]]:
    yield "features", _features
    if settings.engine.rules != Path():
        yield "rules", _rules
    yield "lists", _lists
    if settings.recommend.metrics != Path():
        yield "metrics", _metrics
    yield "permissions", _permissions
    yield "disk", _disk
    yield "space", _room
    yield "data directory", _holder
    yield f"port {settings.server.port}", _port
    if settings.server.tls_files:
        yield "TLS", _tls
    yield "model", _model
    if settings.statistics.ledger_url_env:
        yield "ledger", _ledger
    if settings.understanding.text_model:
        yield "encoder", check_text_encoder
    if settings.understanding.picture_model:
        yield "picture encoder", check_picture_encoder
    if settings.speech.model:
        yield "speech", check_speech
    yield "retention", _retention
    if settings.privacy.sealed_log or settings.vault.exists():
        yield "sealing", _sealing
    yield "log", _log_files if settings.log.in_files else _kafka
    if settings.online.shared:
        yield "online store", _redis
    if settings.engine.kind == "flink":
        yield "flink", check_flink
    if settings.actions.webhook_url:
        yield "webhook", _webhook


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return "ok", version
    return "failed", f"{version}: install Python 3.11, 3.12 or 3.13"


def _features(settings: Settings) -> Finding:
    definitions = load_definitions(settings.features)
    make_operators(definitions)  # a sequence may need too many states
    said = f"{len(definitions.all)} definitions in {settings.features.name}"
    if absent := absent_features(definitions):
        return "warning", f"{said}; recommendations need {', '.join(absent)}, which are missing"
    return "ok", said


def _rules(settings: Settings) -> Finding:
    path = settings.engine.rules
    return "ok", f"{len(load_rules(path).rules)} in {path.name}"


def _lists(settings: Settings) -> Finding:
    """Check the files of ranking arms and placement rules."""
    arms = policies(ranking_experiment(settings.experiments), default=Policy())
    return "ok", f"{len(arms)} arms, {len(load_placement(settings.placement))} placement rules"


def _metrics(settings: Settings) -> Finding:
    """Check the metrics and analyses of experiments."""
    found = load_metrics(settings.experiment_metrics)
    name = settings.experiment_metrics.name
    return "ok", f"{len(found.metrics)} metrics and {len(found.plans)} analyses in {name}"


def _permissions(settings: Settings) -> Finding:
    """Check that other users of the machine reach neither the data directory nor secrets."""
    data, log = settings.storage.data, settings.log
    repaired = open_directory(data)
    secrets = (settings.keyring, settings.vault, settings.consent.tombstones)
    for path in (*secrets, log.password_file, log.key_file, settings.privacy.master_key_file):
        if (
            path != Path()
            and path.is_file()
            and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077
        ):
            return "warning", f"other users can use {path} (mode {mode:04o}): chmod 600 {path}"
    if repaired:
        return "warning", f"other users could use {repaired} files of {data}: closed to them now"
    return "ok", f"only {data.owner()} can write in {data}"


def _disk(settings: Settings) -> Finding:
    data = settings.storage.data
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
        return "failed", f"{data} cannot be written: {error.strerror}"
    if took > _SLOW_SYNC_MS:
        return "warning", f"a sync takes {took:.0f} ms: events will be slow"
    return "ok", f"written and synced in {took:.1f} ms"


def _room(settings: Settings) -> Finding:
    data = settings.storage.data
    free = shutil.disk_usage(data if data.exists() else Path.cwd()).free
    said = f"{free / 1024**3:.1f} GiB free"
    return ("warning", f"{said}: free some space") if free < _FREE_BYTES else ("ok", said)


def _holder(settings: Settings) -> Finding:
    try:
        with exclusive(settings.storage.data):
            return "ok", f"{settings.storage.data} is free"
    except TactfulError as error:
        return "warning", str(error)


def _port(settings: Settings) -> Finding:
    host, port = settings.server.host, settings.server.port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with closing(socket.create_server((host.strip("[]"), port), family=family)):
            return "ok", f"free on {host}"
    except OSError as error:
        reason = error.strerror or str(error)
    if is_loopback(host) and _tactful_answers(settings.server.scheme, host, port):
        return "warning", f"a tactful server is running on {host} already"
    return "failed", f"{host}: {reason}; choose another one with --port"


def _tactful_answers(scheme: str, host: str, port: int) -> bool:
    unverified = ssl.create_default_context()  # its certificate is none for this address
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    url = f"{scheme}://{host}:{port}"
    try:
        with Client(url, retries=0, timeout=2.0, tls=unverified) as client:
            return bool(client.health().version)
    except ClientError:
        return False


def _tls(settings: Settings) -> Finding:
    certificate = Certificate(settings.server)
    if found := certificate.warnings():
        return "warning", "; ".join(found)
    return "ok", f"the certificate is valid until {certificate.ends_at:%Y-%m-%d}"


def _model(settings: Settings) -> Finding:
    try:
        return check_model(settings, now=now_ms())
    except ModelError as error:  # it serves without a model
        return "warning", f"{error}; recommendations are made without a model"


def _ledger(settings: Settings) -> Finding:
    """Check the ledger in a database of its own."""
    place = ledger_location(settings)
    try:
        Ledger(place).close()
    except ParameterError as error:
        return "warning", f"{error}; the first start of the server creates it"
    return "ok", named(place)


def _metadata(settings: Settings) -> Iterator[Check]:
    """Check the metadata, whose schema this updates, and the API keys and erasures in it."""
    try:
        with open_keys(settings) as (metadata, store):
            valid = sum(key.revoked_at is None for key in store.list())
            jobs = ErasureJobs(metadata, clock=now_ms)
            waiting, overdue = jobs.incomplete(), jobs.overdue()
            unconfirmed = ", ".join(jobs.unconfirmed())
            lease = read_lease(metadata)
    except TactfulError as error:
        yield Check("metadata", "failed", str(error))
        return
    yield Check("lease", *_lease(settings, lease))
    if valid:
        yield Check("API keys", "ok", f"{valid} valid")
    else:
        said = "none: create one with `tactful keys create --scope admin`"
        yield Check("API keys", "warning", said)
    if overdue:
        said = f"{overdue} of {waiting} are overdue: stop the server and run `tactful user erase`"
        said += f"; not confirmed by {unconfirmed}" if unconfirmed else ""
        yield Check("erasures", "failed", said)
    elif unconfirmed:
        yield Check("erasures", "warning", f"{waiting} wait, not confirmed by {unconfirmed}")
    elif waiting:
        said = f"{waiting} will be complete at the next start of the server"
        yield Check("erasures", "warning", said)
    else:
        yield Check("erasures", "ok", "none waits")


def _lease(settings: Settings, state: LeaseState | None) -> Finding:
    """Describe which server publishes, sends and schedules."""
    split = ""
    if not settings.log.in_files and not settings.metadata.url_env:
        split = "several servers on this topic would each send and publish: set metadata.url_env"
    if state is None or state.left_ms <= 0:
        said = "no server holds it: the next one that starts publishes, sends and schedules"
    else:
        said = f"held by {process_of(state.holder)} for {state.left_ms / 1000:.0f} s at least"
    return ("warning", f"{said}; {split}") if split else ("ok", said)


def _retention(settings: Settings) -> Finding:
    """Check the retention times, and that the server applies them."""
    limits = retention_limits(settings.retention)
    if not limits:
        return "warning", "data of users are kept for ever: set [retention]"
    said = ", ".join(f"{kind} {limit / DAY_MS:g} days" for kind, limit in limits.items())
    if not settings.log.in_files:
        return "ok", f"{said}; the topic {settings.log.retention_days:g} days"
    progress = read_progress(settings.storage.data / PROGRESS)
    if not progress.at:
        return "warning", f"{said}; no server has applied them yet"
    ago = time.time() - progress.at / 1000
    said += f"; applied {max(ago, 0) / 3600:.1f} hours ago"
    if ago > _RETENTION_LATE_S:
        return "failed", f"{said}: start the server and see its log"
    return "ok", said


def _sealing(settings: Settings) -> Finding:
    seal = open_seal(settings, clock=now_ms)
    assert seal is not None
    seal.close()
    vault, topic = settings.vault.name, settings.worker.fired_topic
    if not settings.privacy.sealed_log:
        return "ok", f"switched off; {vault} opens earlier records"
    if topic:
        return "warning", (
            f"records are sealed by {vault}, but rows are unsealed in topic {topic!r}, where "
            "erasures only add tombstones: keep its retention short"
        )
    return "ok", f"records are sealed by {vault}"


def _log_files(settings: Settings) -> Finding:
    """Check that no segment of the log is missing, exchanged or emptied."""
    path = settings.storage.data / "log"
    if not path.exists():
        return "ok", "none yet"
    with EmbeddedLog(path, read_only=True) as log:
        if log.end > log.begin:
            log.read(log.end - 1, 1)
        return "ok", f"offsets {log.begin} to {log.end}"


def _kafka(settings: Settings) -> Finding:
    """Check that a broker answers and has the topic."""
    log, connection = settings.log, kafka_settings(settings.log)
    try:
        with KafkaLog(connection, connect_timeout_s=_PATIENCE_S) as kafka:
            count = kafka.partitions
    except TopicError:
        return "warning", f"no topic {log.topic!r} yet: `tactful serve` creates it"
    said = f"topic {log.topic!r} at {log.brokers} has {count} partitions"
    if count < (wanted := 2 * log.consumer_threads):
        return "warning", f"{said}, log.consumer_threads asks for {wanted}"
    if problems := topic_problems(log, connection):
        return "warning", "; ".join(problems)
    return "ok", said


def _redis(settings: Settings) -> Finding:
    definitions = load_definitions(settings.features)
    partitions = None if settings.log.in_files else 1  # the first one is enough
    online = open_redis(
        settings.online, definitions, partitions=partitions, attempts=1, timeout_s=_PATIENCE_S
    )
    with closing(online):
        copied = online.marked(0) is not None
    if not copied and not settings.log.in_files:
        return "warning", "Redis answers, without data of these features: start `tactful worker`"
    return "ok", "Redis answers"


def _webhook(settings: Settings) -> Finding:
    """Check that the secret exists; nothing is sent."""
    actions = settings.actions
    signed = secret("actions.secret_env", actions.secret_env)
    if not (signed or secret("actions.secret_file", "", actions.secret_file)):
        return "warning", "requests are not signed: set actions.secret_env"
    return "ok", "requests are signed"
