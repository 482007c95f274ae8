"""What a commit writes of the counters of people, and what a new master key costs.

The same counters are packed whole and as what changed since, in turns. CPU time is compared, so
that what else the machine does weighs on both.
"""

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from benchmarks.figures import Figure
from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.ledger.statistic import Statistic
from tactful_privacy.people.pseudonyms import Keyring
from tactful_privacy.people.vault import Vault
from tactful_privacy.people.vault_file import rewrap_vault

FIGURES = [
    ("counters_changes_vs_whole", "1"),
    ("counters_whole_ms", "ms"),
    ("counters_whole_kb", "kB"),
    ("counters_few_changes_ms", "ms"),
    ("counters_few_changes_kb", "kB"),
    ("counters_many_changes_ms", "ms"),
    ("counters_many_changes_kb", "kB"),
    ("rewrap_us_per_person", "µs"),
]

_T = TypeVar("_T")

_HOUR_MS = 3_600_000
_FEW = 100
_SHARE = 32
_RUNS = 5
_TOGETHER = 1_000


def figures(quick: bool) -> list[Figure]:
    """Measure in memory, and on a vault that is removed again."""
    return [*_counters(100_000 if quick else 1_000_000), _rewrapped(2_000 if quick else 20_000)]


def _counters(people: int) -> list[Figure]:
    statistic = Statistic("views", ("bread", "milk"), _HOUR_MS, 10, Fraction(1))
    counts = BoundedCounts(statistic, secret=secrets.token_bytes(32), start=0)
    for number in range(people):
        counts.add(f"user-{number}", 1_000, "milk")
    many = people // _SHARE
    whole: list[float] = []
    few_ms: list[float] = []
    many_ms: list[float] = []
    for _ in range(_RUNS):
        took, packed = _ms(counts.snapshot)
        whole.append(took)
        for changed, times in ((_FEW, few_ms), (many, many_ms)):
            for number in range(counts.entries_changed, changed):
                counts.add(f"user-{number}", 2_000, "bread")
            took, changes = _ms(counts.changes)
            times.append(took)
            if changed == _FEW:
                few_kb = len(changes) / 1e3
    note = f"{people:,} people of a day, CPU time, the least of {_RUNS} in turns"
    of_few, of_many = f"{_FEW} people since; {note}", f"{many:,} people since; {note}"
    return [
        Figure("counters_changes_vs_whole", min(few_ms) / min(whole), "1", runs=_RUNS, note=of_few),
        Figure("counters_whole_ms", min(whole), "ms", runs=_RUNS, note=note),
        Figure("counters_whole_kb", len(packed) / 1e3, "kB", note=note),
        Figure("counters_few_changes_ms", min(few_ms), "ms", runs=_RUNS, note=of_few),
        Figure("counters_few_changes_kb", few_kb, "kB", note=of_few),
        Figure("counters_many_changes_ms", min(many_ms), "ms", runs=_RUNS, note=of_many),
        Figure("counters_many_changes_kb", len(changes) / 1e3, "kB", note=of_many),
    ]


def _rewrapped(people: int) -> Figure:
    directory = Path(tempfile.mkdtemp(prefix="tactful-rewrap-"))
    try:
        keys = [secrets.token_bytes(32) for _ in range(_RUNS + 1)]
        vault = Vault(directory / "vault.db", keys[0], Keyring(directory / "keys", clock=lambda: 0))
        for start in range(0, people, _TOGETHER):
            some = [f"user-{number}" for number in range(start, start + _TOGETHER)]
            vault.seal_many(some, [b""] * _TOGETHER)
        vault.close()
        took = []
        for old, new in pairwise(keys):
            ms, count = _ms(partial(rewrap_vault, directory / "vault.db", old, new))
            assert count == people
            took.append(ms * 1e3 / people)
        note = f"{people:,} people, CPU time, the least of {_RUNS}"
        return Figure("rewrap_us_per_person", min(took), "µs", runs=_RUNS, note=note)
    finally:
        shutil.rmtree(directory)


def _ms(work: Callable[[], _T]) -> tuple[float, _T]:
    """CPU milliseconds, and what it gave."""
    started = time.process_time()
    result = work()
    return (time.process_time() - started) * 1e3, result
