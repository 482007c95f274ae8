"""Fuzz of every decoder, in processes that are watched from outside.

An input depends on the seed, the target and its number alone. What is not a clean refusal is
written to ``reports/faults``: the input, and where it failed. Beside it stands what each decoder
came to: a run that broke off goes on with the others, at the same commit and number of inputs.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.faults.decoders import ERRORS, ROOT, Target, all_targets
from benchmarks.faults.mutate import Mutator
from benchmarks.figures import Figure, commit

CRASHES: Final = ROOT / "reports" / "faults"
FIGURES: Final = [("fuzz_inputs", "inputs"), ("fuzz_crashes", "inputs")]
INPUTS: Final = 10_400_000
QUICK_INPUTS: Final = 50_000
SEED: Final = "1"
MEMORY: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""A folder in memory, where there is one."""

_SLOW_SHARE: Final = 10_000  # one input of a slow decoder for so many in all
_HANG_S: Final = 20.0  # of processor time for one input
_WAIT_S: Final = 300.0  # of time for one input, which may wait without computing
_MEMORY: Final = 1 << 30  # bytes that decoding may add to the address space
_GROWTH: Final = 200 << 20  # bytes that a process may grow from a tenth of its inputs on
_MOST_DEATHS: Final = 20  # of one target, before it is given up


@dataclass
class Result:
    """Inputs of one target, and failures by place."""

    inputs: int = 0
    failures: Counter[str] = field(default_factory=Counter)


class Finished(msgspec.Struct, frozen=True):
    """Line of the file of results: one target that was fuzzed to its end."""

    target: str
    count: int
    inputs: int
    failures: dict[str, int]


def figures(quick: bool, inputs: int | None = None) -> list[Figure]:
    """Fuzz all decoders; `inputs` in all, by default by `quick`."""
    wanted = inputs or (QUICK_INPUTS if quick else INPUTS)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=MEMORY))
    try:
        targets = all_targets(folder)
        slow = sum(target.slow for target in targets)
        few = max(4, wanted // _SLOW_SHARE)
        many = (wanted - few * slow) // (len(targets) - slow) + 1
        counts = [(target, few if target.slow else many) for target in targets]
        results = fuzz_all(counts, folder, CRASHES / f"fuzzed-{commit()}.jsonl")
    finally:
        shutil.rmtree(folder)
    made = sum(result.inputs for result in results.values())
    failures = [f"{name}: {where}" for name, it in results.items() for where in it.failures]
    crashes = sum(result.failures.total() for result in results.values())
    note = f"{len(targets)} decoders, seed {SEED}"
    told = f"in {len(failures)} places" + "".join(f"; {text}" for text in failures[:10])
    return [
        Figure("fuzz_inputs", made, "inputs", note=note),
        Figure("fuzz_crashes", crashes, "inputs", runs=made, note=told),
    ]


def fuzz_all(
    counts: Sequence[tuple[Target, int]], folder: Path, finished: Path
) -> dict[str, Result]:
    """Fuzz targets; those that `finished` holds with the same count are not fuzzed again.

    The file is removed once all are fuzzed. It holds the results of a run that broke off.
    """
    finished.parent.mkdir(parents=True, exist_ok=True)
    lines = finished.read_bytes().splitlines() if finished.exists() else []
    before = {(line.target, line.count): line for line in map(_decode_line, lines) if line}
    results = {}
    for target, count in counts:
        line = before.get((target.name, count))
        if line is None:
            result = fuzz(target, count, folder)
            line = Finished(target.name, count, result.inputs, dict(result.failures))
            with finished.open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")
        results[target.name] = Result(line.inputs, Counter(line.failures))
    finished.unlink(missing_ok=True)
    return results


def _decode_line(line: bytes) -> Finished | None:
    """Return a target's result, None of a line that was cut off."""
    try:
        return msgspec.json.decode(line, type=Finished)
    except msgspec.DecodeError:
        return None


def fuzz(target: Target, count: int, folder: Path, first: int = 0) -> Result:
    """Decode inputs `first` to `count` in a child; another goes on after one that died."""
    result, start, deaths, began = Result(), first, 0, time.monotonic()
    with mmap.mmap(-1, 8) as current:
        while start < count and deaths < _MOST_DEATHS:
            log = folder / "failures"
            log.unlink(missing_ok=True)
            current[:8] = start.to_bytes(8, "little")
            child = _fork(target, start, count, current, log)
            ending = _watch(child, current)
            reached = int.from_bytes(current[:8], "little")
            if log.exists():
                result.failures.update(msgspec.json.decode(log.read_bytes(), type=dict[str, int]))
            if not ending:
                start = count
                break
            deaths += 1
            _keep(
                target,
                reached,
                next(Mutator(target.seeds, target.form, _seed(target)).inputs(reached)),
                ending,
            )
            result.failures[ending] += 1
            start = reached + 1
    result.inputs = start - first
    told = f"{target.name}: {result.inputs:,} inputs, {time.monotonic() - began:.1f} s"
    print(told, *result.failures.items(), file=sys.stderr, flush=True)
    return result


def _seed(target: Target) -> str:
    return f"{SEED}/{target.name}"


def _fork(target: Target, start: int, count: int, current: mmap.mmap, log: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        logging.disable()
        warnings.simplefilter("ignore")
        limit = _pages()[0] + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        decode_all(target, start, count, current, log)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def decode_all(target: Target, start: int, count: int, current: mmap.mmap, log: Path) -> None:
    """Decode inputs from number `start` on; write the failures by place to `log`."""
    refusals: tuple[type[Exception], ...] = (*ERRORS, *target.refusals)
    failures: Counter[str] = Counter()
    inputs = Mutator(target.seeds, target.form, _seed(target)).inputs(start)
    before = 0
    for number in range(start, count):
        data = next(inputs)
        current[:8] = number.to_bytes(8, "little")
        try:
            target.decode(data)
        except refusals:
            pass
        except Exception as error:
            where = _place(error)
            failures[where] += 1
            if failures[where] == 1:
                _keep(target, number, data, traceback.format_exc())
            log.write_bytes(msgspec.json.encode(failures))
        if number == start + count // 10:
            before = _pages()[1]
    if before and _pages()[1] > before + _GROWTH:
        failures[f"grew by {(_pages()[1] - before) >> 20} MiB"] += 1
        log.write_bytes(msgspec.json.encode(failures))


def _place(error: Exception) -> str:
    """Return the kind of an error, and the line of ours where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "tactful" in frame.filename] or frames
    return f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"


def _keep(target: Target, number: int, data: bytes, text: str) -> None:
    """Write an input that failed, to repeat it."""
    CRASHES.mkdir(parents=True, exist_ok=True)
    name = "".join(letter if letter.isalnum() else "_" for letter in target.name)
    path = CRASHES / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.with_suffix(".input").write_bytes(data)
    about = f"decoder {target.name}, seed {SEED}, input {number}\n{text}\n"
    path.with_suffix(".txt").write_text(about)


def _watch(child: int, current: mmap.mmap) -> str:
    """Wait for a child; return how it ended, "" if well."""
    seen, cpu, since = b"", 0.0, 0.0
    pause = 0.005
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return "" if code == 0 else f"process ended with {code}"
        if current[:8] != seen:
            seen, cpu, since = current[:8], _cpu(child), time.monotonic()
        elif _cpu(child) > cpu + _HANG_S or time.monotonic() > since + _WAIT_S:
            used = _cpu(child) - cpu
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"no end after {used:.1f} s of processor time"
        time.sleep(pause)
        pause = min(0.2, pause * 1.5)


def _cpu(process: int) -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        parts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _pages() -> tuple[int, int]:
    """Return address space and resident memory of this process, in bytes."""
    size, resident = Path("/proc/self/statm").read_text().split()[:2]
    page = os.sysconf("SC_PAGE_SIZE")
    return int(size) * page, int(resident) * page
