"""All decoders of bytes from outside: a valid input or more, and the documented refusals."""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import zlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Final, get_args

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.faults.mutate import sample
from tactful.config.load import load_settings
from tactful.coupons.definitions import load_coupons
from tactful.errors import TactfulError
from tactful.event_log.encryption import read_master_key
from tactful.event_log.impressions import decode_impression
from tactful.experiments.definitions import load_rollouts
from tactful.http.asgi import ARRIVED, Call
from tactful.http.openapi import example_of
from tactful.http.paths import Paths
from tactful.http.routes import ENDPOINTS
from tactful.maintenance.backup import Manifest, read_signed_manifest, write_manifest
from tactful.metadata.key_cache import ApiKey
from tactful.ranking.forest import BinnedForest
from tactful.ranking.model import load_trees, read_manifest, read_pointer
from tactful.recall.index import RecallIndex
from tactful.rerank.frequency_caps import ShownToday
from tactful.rerank.placement_rules import load_placement
from tactful.schemas import positions
from tactful.schemas.browser_access import parse_origins, refused
from tactful.statistics.definitions import load_statistics
from tactful.util.checkpoint import Checkpoint
from tactful.util.signing import check_directory, read_public_key
from tactful.workers.ipc import Request, decode_request
from tactful_bandits.assignment.definitions import load_experiments
from tactful_bandits.errors import ExperimentError
from tactful_bandits.policies.budget_pacing import BudgetPacing
from tactful_bandits.policies.codec import _MARK
from tactful_bandits.policies.linear import LinearBandit
from tactful_bandits.rollouts.lifecycle import load_rollout
from tactful_federated.core.checkpoint import load_arrays
from tactful_federated.core.compression import ENCODINGS, from_bytes, restore
from tactful_federated.core.invitation import Invitation, read_invitation
from tactful_federated.device import model_package
from tactful_federated.errors import FederatedError
from tactful_federated.secagg import messages as secure_messages
from tactful_federated.secagg import secret_sharing
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.errors import PrivacyError
from tactful_privacy.ledger.query import Query
from tactful_privacy.ledger.rows import definition, found_values, unpack_answer
from tactful_privacy.ledger.statistic import Statistic
from tactful_streaming.contract.decode_requests import (
    decode_events,
    decode_items,
    decode_users,
)
from tactful_streaming.contract.log_entries import Entry, Event, decode_entry, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.commits import restore_consumer
from tactful_streaming.errors import StreamingError
from tactful_streaming.identity.device_links import decode_devices
from tactful_streaming.log.bounds_file import BoundsFile
from tactful_streaming.log.dead_letters import DeadLetter, DeadLetters
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.segment_catalogue import read_catalogue
from tactful_streaming.rules.reader import read_rules
from tactful_streaming.state.key_layout import META, Meta, read_meta
from tactful_streaming.windows.entity_table import PackedReader

ROOT: Final = Path(__file__).resolve().parents[2]
STORED: Final = ROOT / "tests" / "platform" / "stored"
ERRORS: Final[tuple[type[Exception], ...]] = (
    TactfulError,
    PrivacyError,
    StreamingError,
    FederatedError,
    ExperimentError,
)
"""Roots of the documented errors."""

NOW: Final = 1_790_000_000_000


@dataclass(frozen=True)
class Target:
    """One decoder.

    Attributes:
        name: of the decoder.
        decode: decodes an input; returns, or raises a documented error.
        seeds: valid inputs.
        form: of the inputs, as for `Mutator`.
        refusals: errors of this decoder beside `ERRORS`, as its docstring or its caller states.
        slow: whether an input takes a millisecond or more.
    """

    name: str
    decode: Callable[[bytes], object]
    seeds: Sequence[bytes]
    form: str = ""
    refusals: tuple[type[Exception], ...] = ()
    slow: bool = False


def all_targets(folder: Path) -> list[Target]:
    """Make the targets; `folder` is for their files."""
    with tarfile.open(STORED / "installation.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return [
        *_requests(),
        *_entries(),
        *_states(folder),
        *_texts(),
        *_configuration(folder),
        *_files(folder),
        *_models(folder),
        *_federated(folder),
        *_ledger(),
    ]


def _requests() -> Iterator[Target]:
    """Bodies, queries and paths of HTTP, and messages between processes."""
    bodies = {
        f"{endpoint.method} {endpoint.path}": msgspec.json.encode(request)
        for endpoint in ENDPOINTS
        if (request := example_of(endpoint).request) is not None
    }
    events = bodies["POST /v1/events"]
    lines = b"\n".join(map(msgspec.json.encode, msgspec.json.decode(events)))
    decoders: Any = (
        ("events", decode_events, events, None),
        ("events_ndjson", decode_events, lines, "application/x-ndjson"),
        ("items", decode_items, bodies["PUT /v1/items"], None),
        ("users", decode_users, bodies["PUT /v1/users"], None),
    )
    for name, decode, body, kind in decoders:
        form = "json" if kind is None else ""
        yield Target(name, _batch(decode, kind), [body], form)
    for endpoint in ENDPOINTS:
        name = f"{endpoint.method} {endpoint.path}"
        if isinstance(endpoint.body, type) and name in bodies:
            decoder: Any = msgspec.json.Decoder(endpoint.body)
            yield Target(f"body of {name}", _body(decoder), [bodies[name]], "json")
        if endpoint.query.__struct_fields__:
            yield Target(f"query of {name}", _query(endpoint.query), [_QUERY, b"limit=2&cursor=x"])
    paths = Paths({endpoint.path: endpoint for endpoint in ENDPOINTS})
    yield Target(
        "path", paths.find, [endpoint.path.encode() for endpoint in ENDPOINTS] + [b"/v1/x%2Fy/%e9"]
    )
    messages = _samples(Request)
    yield Target("message of a worker", decode_request, messages, "msgpack", (msgspec.DecodeError,))


_QUERY: Final = (
    b"since=2026-03-01T12:00:00Z&until=2026-04-01T00:00:00%2B01:00&limit=7&at=17&a=%C3%A9"
)


def _batch(decode: Any, kind: str | None) -> Callable[[bytes], object]:
    def check(body: bytes) -> None:
        accepted, rejected = decode(body, now=NOW, content_type=kind)
        places = sorted([index for index, _ in accepted] + [other.index for other in rejected])
        assert places == [*range(len(places))], "an element has no verdict, or two"
        for _, entry in accepted[:3]:
            assert decode_entry(encode_entry(entry)) == entry, "the log changes an entry"
            if type(entry) is Event:
                refused(entry)

    return check


def _call(body: bytes = b"", query: bytes = b"") -> Call:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    scope = {"query_string": query, ARRIVED: lambda: True}
    key = ApiKey("", frozenset({"admin"}), "", 0, None)
    return Call(scope, receive, {}, key, 1 << 20, 5.0)


def _run(work: Coroutine[Any, Any, object]) -> None:
    with contextlib.suppress(StopIteration):
        work.send(None)
        raise AssertionError("the body had arrived, and yet it was waited for")


def _body(decoder: msgspec.json.Decoder[Any]) -> Callable[[bytes], object]:
    return lambda body: _run(_call(body).json(decoder))


def _query(kind: type) -> Callable[[bytes], object]:
    return lambda query: _call(query=query).query(kind)


def _samples(kind: Any, count: int = 40) -> list[bytes]:
    """Encode values of a type."""
    random, samples = Random(7), []
    kinds = get_args(kind) or (kind,)
    for number in range(count):
        with contextlib.suppress(*ERRORS, ValueError, TypeError):
            samples.append(msgspec.msgpack.encode(sample(kinds[number % len(kinds)], random)))
    return list(dict.fromkeys(samples))


def _entries() -> Iterator[Target]:
    """Entries of the log."""
    packed = _samples(Entry, 80)
    yield Target("log entry, msgpack", decode_entry, packed, "msgpack")
    as_json = [msgspec.json.encode(decode_entry(entry)) for entry in packed]
    yield Target("log entry, json", decode_entry, as_json, "json")
    shown = Event(
        event_id="impression:r-1",
        type="impression",
        timestamp=NOW,
        user_id="u",
        properties={"items": ["a", "b"], "features": "AACAPwAAAEA=", "applied": 3},
    )
    encoded = [encode_entry(shown)]
    yield Target("impression", lambda data: decode_impression(data, 7), encoded, "msgpack")
    letters = _samples(DeadLetter)
    records = _Records()
    stored = DeadLetters(records, None)  # type: ignore[arg-type]

    def read(data: bytes) -> None:
        records.payload = data
        for _, letter in stored.read():
            with contextlib.suppress(StreamingError):
                letter.entry()

    yield Target("dead letter", read, letters, "msgpack")


class _Records:
    """A log of one record."""

    begin = 0
    payload = b""

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        return [(0, self.payload)] if offset == 0 else []


def _states(folder: Path) -> Iterator[Target]:
    """Stored states of the engine and of policies."""
    definitions = load_definitions(STORED / "configuration" / "features.yaml")
    reader = PackedReader(definitions.of_entity("user"))
    blobs = msgspec.json.decode((STORED / "online.json").read_bytes(), type=dict[str, bytes])
    packed = [blob for blob in blobs.values() if _is_state(blob)]
    yield Target(
        "packed features", lambda data: reader.read(data, NOW), packed, "msgpack", slow=True
    )
    yield Target("head of a state", lambda data: read_meta({META: data}), _samples(Meta), "msgpack")  # type: ignore[arg-type]
    devices = [msgspec.msgpack.encode({"device-1": NOW, "device-2": 0})]
    yield Target("devices of a user", decode_devices, devices, "msgpack")
    caps = ShownToday()
    shown = [msgspec.msgpack.encode([("u-17", (20_000, {"a": 1, "b": 3})), ("u-18", (20_001, {}))])]
    yield Target(
        "caps of a day", lambda data: restore_consumer("shown", caps, data), shown, "msgpack"
    )
    bandit = LinearBandit(2, 3)
    policies: Any = (
        ("linear", LinearBandit.from_bytes, bandit.to_bytes()),
        ("pacing", BudgetPacing.from_bytes, BudgetPacing(100.0, 10, step=0.1).to_bytes()),
    )
    for name, decode, data in policies:
        body = data[len(_MARK) + 4 :]
        slow = name == "linear"
        yield Target(f"{name} policy", _resealed(decode), [body], "msgpack", slow=slow)


def _is_state(blob: bytes) -> bool:
    try:
        return isinstance(msgspec.msgpack.decode(blob), dict)
    except msgspec.DecodeError:
        return False


def _resealed(decode: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """Give bytes the checksum that fits: it stops damage, not who writes it."""
    return lambda body: decode(_MARK + zlib.crc32(body).to_bytes(4, "big") + body)


def _texts() -> Iterator[Target]:
    """Positions, origins, keys and patterns of settings."""
    text: Any = lambda parse: lambda data: parse(data.decode("utf-8", "replace"))  # noqa: E731
    seeds = [b"0:128,3:77", b"12:0", b""]
    yield Target("position", text(positions.parse), seeds, refusals=(ValueError,))
    origins = [b"https://shop.example, http://localhost:8000", b"http://[::1]:8080"]
    yield Target("origins", text(parse_origins), origins, refusals=(ValueError,))
    keys = [b"00" * 32, b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]
    yield Target("master key", text(lambda key: read_master_key(key, "here")), keys)


def _written(path: Path, decode: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Decode an input as the content of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def check(data: bytes) -> None:
        path.write_bytes(data)
        decode(path)

    return check


def _configuration(folder: Path) -> Iterator[Target]:
    """Files of settings and definitions."""
    given = STORED / "configuration"
    more = ROOT / "examples"
    readers: Any = {
        "features": load_definitions,
        "rules": read_rules,
        "statistics": load_statistics,
        "rollouts": load_rollouts,
        "experiments": load_experiments,
        "coupons": load_coupons,
        "placement": load_placement,
    }
    for name, read in readers.items():
        seeds = [(given / f"{name}.yaml").read_bytes()]
        seeds += [path.read_bytes() for path in sorted(more.rglob(f"{name}.yaml"))]
        for form in ("yaml", ""):
            decode = _written(folder / "configured" / f"{name}.yaml", read)
            yield Target(f"{name}.yaml{form and ' of JSON'}", decode, seeds, form, slow=True)
    settings = [(given / "tactful.toml").read_bytes()]
    decode = _written(
        folder / "configured" / "tactful.toml", lambda path: load_settings(path, environ={})
    )
    yield Target("tactful.toml", decode, settings, slow=True)


def _files(folder: Path) -> Iterator[Target]:
    """Files of the log, of backups and of signatures."""
    work = folder / "files"
    log = folder / "data" / "log"
    segments = sorted(log.glob("*.log"))
    short = [segments[-1].read_bytes()[:4096]]
    yield Target(
        "segment of the log",
        _written(work / "log" / f"{0:020d}.log", lambda path: _read_log(path.parent)),
        [_log_of(work / "made", [b"payload %d" % n for n in range(5)]), *short],
        slow=True,
    )
    bounds = [(log / "bounds").read_bytes(), (folder / "data" / "late" / "bounds").read_bytes()]
    yield Target("bounds", _written(work / "b" / "bounds", _read_bounds), bounds)
    catalogue = (
        [(work / "made" / "segments").read_bytes()]
        if (work / "made" / "segments").exists()
        else [b'{"crc32":0,"catalogue":"e30="}']
    )
    yield Target(
        "catalogue",
        _written(work / "c" / "segments", lambda path: read_catalogue(path.parent)),
        catalogue,
        "json",
    )
    manifest = sample(Manifest, Random(3))
    (work / "backup").mkdir()
    write_manifest(work / "backup", manifest)
    written = next((work / "backup").glob("*.json"))
    backup = folder / "backup" / written.name
    yield Target(
        "manifest of a backup",
        _written(written, lambda path: read_signed_manifest(path.parent)),
        [backup.read_bytes(), written.read_bytes()],
        "json",
    )
    version = folder / "data" / "models" / "versions" / "1"
    signed = work / "signed" / "signature.json"
    yield Target(
        "signature of a model",
        _written(signed, lambda path: check_directory(path.parent, ["00"])),
        [b'{"files":{"a":"00"},"signature":{"key":"00","value":"00"}}'],
        "json",
    )
    pem = (
        b"-----BEGIN PUBLIC KEY-----\n"
        b"MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
        b"-----END PUBLIC KEY-----\n"
    )
    yield Target("public key", _written(work / "key.pem", read_public_key), [pem])
    yield Target(
        "manifest of a model",
        _written(work / "model" / "manifest.json", lambda path: read_manifest(path.parent)),
        [(version / "manifest.json").read_bytes()],
        "json",
    )
    champion = folder / "data" / "models" / "champion.json"
    pointer = _written(work / "champion.json", lambda path: read_pointer(path.parent))
    yield Target("pointer to a model", pointer, [champion.read_bytes()], "json")
    rollout = msgspec.json.encode({"key": "a", "stages": [0.1, 1.0]})
    yield Target("stored rollout", lambda data: load_rollout(_decoded(data)), [rollout], "json")


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except DECODE_ERRORS:
        return None


def _log_of(path: Path, records: Sequence[bytes]) -> bytes:
    log = EmbeddedLog(path, durability="process")
    log.append([*records])
    log.close()
    return next(path.glob("*.log")).read_bytes()


def _read_log(path: Path) -> None:
    log = EmbeddedLog(path, durability="process")
    try:
        log.read(log.begin, 10_000)
    finally:
        log.close()
        for file in path.iterdir():
            file.unlink()


def _read_bounds(path: Path) -> None:
    bounds = BoundsFile(path.parent, writable=False)
    bounds.read()
    _ = bounds.damaged
    bounds.close()


def _models(folder: Path) -> Iterator[Target]:
    """Files of models."""
    version = folder / "data" / "models" / "versions" / "1"
    forest = _written(folder / "m" / "forest.npz", lambda path: BinnedForest.load(path, source="a"))
    yield Target("forest.npz", forest, [(version / "forest.npz").read_bytes()], slow=True)
    trees = _written(folder / "m" / "model.ubj", lambda path: load_trees(path.parent))
    yield Target("model.ubj", trees, [(version / "model.ubj").read_bytes()], slow=True)
    index = folder / "m" / "index"
    shutil.copytree(version / "index", index)
    for name in ("seal.json", "index.json", "cohorts.json"):
        yield Target(
            f"{name} of an index",
            _written(index / name, lambda path: RecallIndex.load(path.parent)),
            [(version / "index" / name).read_bytes()],
            "json",
            slow=True,
        )
    arrays = io.BytesIO()
    np.savez(arrays, rows=np.arange(7), values=np.ones((3, 2)))
    with Checkpoint.hold(folder / "m" / "checkpoint") as checkpoint:
        parts = _written(checkpoint.place("parts") / "000000.npz", lambda _: checkpoint.parts())
        yield Target("part of a training", parts, [arrays.getvalue()], slow=True)
        about = _written(checkpoint.place("about.json"), lambda _: checkpoint.about())
        yield Target("about a training", about, [b'{"version": 3, "rows": [1, 2]}'], "json")
        curve = _written(checkpoint.place("curve.json"), lambda _: checkpoint.forest())
        yield Target("curve of a training", curve, [b"[0.5, 0.75]"], "json")
    arrays_file = _written(folder / "m" / "arrays.npz", load_arrays)
    yield Target("checkpoint of a run", arrays_file, [arrays.getvalue()], slow=True)


def _federated(folder: Path) -> Iterator[Target]:
    """Messages between devices and the leading process."""
    base = secure_messages._Message
    for kind in base.__subclasses__():
        decode = lambda data, kind=kind: secure_messages.decode(data, kind)  # noqa: E731
        yield Target(f"secure {kind.__name__}", decode, _samples(kind, 10), "msgpack")
    values = np.arange(6, dtype=np.float32).tobytes()

    def update(data: bytes) -> None:
        encoding = [*ENCODINGS, "x"][len(data) % (len(ENCODINGS) + 1)]
        restore(from_bytes(data, encoding), float(len(data) - 20))

    yield Target("update of a device", update, [values])

    def shares(data: bytes) -> None:
        points = {place + 1: number for place, number in enumerate(data[:24])}
        secret_sharing.decode(points, 1 + len(data) % 9)

    yield Target("wrong shares", shares, [bytes(range(20)), bytes(12)], slow=True)
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))

    def package(body: bytes) -> None:
        signed = key.sign(model_package._digest(body)) + body
        model_package.open_package(signed, key.public_key())

    yield Target("model package", package, _samples(model_package.ModelPackage), "msgpack")
    invitation = _written(folder / "f" / "invitation.json", read_invitation)
    seeds = [
        msgspec.json.encode(msgspec.msgpack.decode(data, type=Invitation))
        for data in _samples(Invitation, 5)
    ]
    if seeds:
        yield Target("invitation", invitation, seeds, "json")


def _ledger() -> Iterator[Target]:
    """Rows of the ledger."""
    query = Query("most viewed", 19_000, 19_001, Fraction(1, 4), rho=Fraction(1, 32))
    statistic = Statistic("hourly", ("bread", "milk", "tea"), 3_600_000, 5, Fraction(1))
    kinds: Any = (("query", query, unpack_answer), ("statistic", statistic, definition))
    for name, valid, read in kinds:
        row = {"name": valid.name, "fingerprint": valid.fingerprint, "answer": bytes(8)}
        row |= {"reserved_at": 1, "answered_at": 2}

        def decode(data: bytes, read: Any = read, row: Any = row) -> None:
            text = data.decode("utf-8", "replace")
            read(SimpleNamespace(**row, definition=text))

        yield Target(f"{name} of the ledger", decode, [valid.to_json().encode()], "json")

    def answer(data: bytes) -> None:
        row = SimpleNamespace(answer=data, answered_at=2, reserved_at=1, name=query.name)
        row.definition, row.fingerprint = query.to_json(), query.fingerprint
        unpack_answer(row)  # type: ignore[arg-type]

    yield Target("answer of the ledger", answer, [bytes(8), bytes(range(80))])
    keys = [b'{"tea": 120, "milk": 3}']
    yield Target(
        "found keys",
        lambda data: found_values(np.frombuffer(data, np.uint8).astype(np.int64), "a release"),
        keys,
        "json",
    )
