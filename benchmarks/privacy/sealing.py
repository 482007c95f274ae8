"""What it costs to seal the records of a log: on their way in, on their way out, and to the engine.

Plain and sealed take turns in one process, and CPU seconds are compared, so that what else the
machine does weighs on both.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure
from tactful.event_log.encryption import RecordSeal
from tactful_privacy.people.pseudonyms import Keyring
from tactful_privacy.people.vault import Vault
from tactful_streaming.contract.log_entries import Event, Tick, decode_entry, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

FIGURES = [
    ("seal_us_per_record", "µs"),
    ("open_us_per_record", "µs"),
    ("open_cold_us_per_record", "µs"),
    ("seal_new_person_us", "µs"),
    ("sealed_engine_ratio", "1"),
    ("sealed_bytes_ratio", "1"),
    ("open_erased_readable", "1"),
]

_BATCH = 1_000
_FEATURES = """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 1h, slide: 5m}}
- {name: spend, entity: user, event: purchase, aggregate: sum, of: properties.price,
   window: {size: 1d, slide: 1h}}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 5}
"""


def figures(quick: bool) -> list[Figure]:
    """Measure in a directory that is removed again."""
    people, rounds = (5_000, 5) if quick else (20_000, 15)
    directory = Path(tempfile.mkdtemp(prefix="tactful-sealing-"))
    try:
        return _figures(directory, people, rounds)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _figures(directory: Path, people: int, rounds: int) -> list[Figure]:
    keyring = Keyring(directory / "keyring.json", clock=lambda: 0)

    def opened(remembered: int = people) -> RecordSeal:
        vault = Vault(directory / "vault.db", bytes(32), keyring, remembered=remembered)
        return RecordSeal(vault, format="msgpack", writes=True)

    draws = np.random.default_rng(5)
    payloads = [_payload(number, draws) for number in _people(draws, people, rounds)]
    batches = [payloads[at : at + _BATCH] for at in range(0, len(payloads), _BATCH)]
    seal = opened()
    firsts = [_payload(number, draws) for number in range(people)]
    new = _us(lambda: [seal.seal(some) for some in _batches(firsts)], len(firsts))
    sealing = min(_us(lambda: [seal.seal(some) for some in batches], len(payloads)) for _ in "123")
    sealed = [seal.seal(some) for some in batches]
    opening = min(_us(lambda: [seal.open(some) for some in sealed], len(payloads)) for _ in "123")
    cold = opened(remembered=0)
    cold_opening = _us(lambda: [cold.open(some) for some in sealed], len(payloads))
    cold.close()
    plain_s, sealed_s = [], []
    for _ in range(3):
        plain_s.append(_us(lambda: _engine(batches, lambda some: some), len(payloads)))
        sealed_s.append(_us(lambda: _engine(sealed, seal.open), len(payloads)))
    sizes = [sum(len(record) for some in of for record in some) for of in (batches, sealed)]
    seal.erase([f"user-{number}" for number in range(0, people, 50)])
    left = [decode_entry(record) for some in sealed for record in seal.open(some)]
    readable = sum(
        isinstance(entry, Event) and int(str(entry.user_id).split("-")[1]) % 50 == 0
        for entry in left
    )
    assert any(isinstance(entry, Tick) for entry in left)
    seal.close()
    note = f"{len(payloads)} events of {people} people in batches of {_BATCH}, CPU time"
    return [
        Figure("seal_us_per_record", sealing, "µs", runs=3, note=note),
        Figure("open_us_per_record", opening, "µs", runs=3, note="keys remembered; " + note),
        Figure("open_cold_us_per_record", cold_opening, "µs", note="no key remembered; " + note),
        Figure("seal_new_person_us", new, "µs", note="the first record of a person"),
        Figure(
            "sealed_engine_ratio",
            min(sealed_s) / min(plain_s),
            "1",
            runs=3,
            note="CPU time of the engine with three features of a user, opening included",
        ),
        Figure("sealed_bytes_ratio", sizes[1] / sizes[0], "1", note="of the payloads"),
        Figure("open_erased_readable", readable, "1", note="records of one person in fifty"),
    ]


def _people(draws: np.random.Generator, people: int, rounds: int) -> list[int]:
    return [int(number) for number in draws.integers(0, people, rounds * 10_000)]


def _payload(number: int, draws: np.random.Generator) -> bytes:
    event = Event(
        event_id=draws.bytes(16).hex(),
        type="view",
        timestamp=1_700_000_000_000 + number,
        user_id=f"user-{number}",
        session_id=draws.bytes(8).hex(),
        item_id=f"item-{number % 500}",
        properties={"price": 9.5, "category": "kitchen"},
        context={"page": "home", "locale": "en"},
    )
    return encode_entry(event)


def _batches(payloads: list[bytes]) -> list[list[bytes]]:
    return [payloads[at : at + _BATCH] for at in range(0, len(payloads), _BATCH)]


def _engine(batches: list[list[bytes]], read: Callable[[list[bytes]], list[bytes]]) -> None:
    engine = Engine(load_definitions(_FEATURES), MemoryState())
    offset = 0
    for batch in batches:
        engine.apply(list(enumerate(read(batch), offset)))
        offset += len(batch)
    engine.close()


def _us(work: Callable[[], object], count: int) -> float:
    """CPU microseconds of each of `count` records."""
    started = time.process_time()
    work()
    return (time.process_time() - started) / count * 1e6
