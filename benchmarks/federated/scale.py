"""Ten thousand simulated devices: our rounds beside those of Flower's simulation on Ray.

Both train the same model on the same generated shoppers by the same steps, cohort by cohort, each
in a process of its own, in turn. What Flower's devices sent is trained again by ours and compared
before a time counts. Memory is that of all processes of each: proportional set sizes, so what they
share counts once, libraries included. Ours loads numpy and neither torch nor flwr, which it does
not need; Flower's devices train by torch, as its users' do.

Usage: python -m benchmarks.federated.scale {tactful|flower} ROUNDS

The last line it prints is JSON, as of `_Run`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.figures import Figure
from tactful_federated.core.server_optimizer import Doubles
from tactful_federated.device.batched_trainer import SimulatedPopulation
from tactful_federated.errors import HistoryError
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import Vocabulary, Windows, windows
from tactful_federated.model.vectors import Vector, parameter_count

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid

    from benchmarks.federated.torch_device import TorchDevice
    from tactful_federated.model.lstm_torch import IntentModel

_ROOT = Path(__file__).resolve().parents[2]
_DEVICES, _COHORT, _VISITS = 10_000, 100, 60
_SEED = 1
_SETTINGS = TrainerSettings(context=8, held_out=0.0)
_VOCABULARY = Vocabulary.from_catalogue(
    [*SAMPLE_CATALOGUE, *(f"category {number}" for number in range(85))]
)
FIGURES = [
    *((f"{what}_vs_flwr_ray", "1") for what in ("rounds", "rounds_cpu", "memory")),
    *((f"rounds_per_min{whose}", "1/min") for whose in ("", "_flwr_ray")),
    *((f"simulation_mb{whose}", "MB") for whose in ("", "_flwr_ray")),
]
"""Names and units."""
_SIMULATION = "flwr[simulation]>=1.42,<1.43"


@dataclass(frozen=True)
class _Run:
    """What a process measured.

    Attributes:
        start_s: Until the first round was done, which is not counted.
        rounds_s: Each further round, wall-clock.
        cpu_s: Of them all, all processes.
        memory_mb: Most that all processes held after a round, what they share counted once.
        version: Of what ran.
    """

    start_s: float
    rounds_s: list[float]
    cpu_s: float
    memory_mb: float
    version: str


def rounds_beside_flower(quick: bool) -> list[Figure]:
    """Rounds a minute, CPU and memory, ours over Flower's."""
    flower, runs = _flower_python(), []
    for _ in range(1 if quick else 3):
        ours = _measured([sys.executable], "tactful", 10 if quick else 30)
        theirs = _measured([str(flower)], "flower", 3 if quick else 10)
        runs.append((ours, theirs))
    note = (
        f"{_COHORT} of {_DEVICES:,} devices a round, {_weights().size:,}"
        f" parameters, {_VISITS} visits each; Flower {runs[0][1].version}, one actor a core"
    )
    return [
        _spread(
            "rounds_vs_flwr_ray", [_per_minute(o) / _per_minute(t) for o, t in runs], "1", note
        ),
        _spread("rounds_cpu_vs_flwr_ray", [_cpu(t) / _cpu(o) for o, t in runs], "1", note),
        _spread("memory_vs_flwr_ray", [t.memory_mb / o.memory_mb for o, t in runs], "1", note),
        _spread("rounds_per_min", [_per_minute(o) for o, _ in runs], "1/min", note),
        _spread("rounds_per_min_flwr_ray", [_per_minute(t) for _, t in runs], "1/min", note),
        _spread("simulation_mb", [o.memory_mb for o, _ in runs], "MB", note),
        _spread("simulation_mb_flwr_ray", [t.memory_mb for _, t in runs], "MB", note),
    ]


def _per_minute(run: _Run) -> float:
    return 60 / median(run.rounds_s)


def _cpu(run: _Run) -> float:
    return run.cpu_s / len(run.rounds_s)


def _spread(name: str, values: Sequence[float], unit: str, note: str) -> Figure:
    low, middle, high = (round(value, 2) for value in (min(values), median(values), max(values)))
    return Figure(name, middle, unit, low, high, len(values), note)


def _measured(python: Sequence[str], who: str, rounds: int) -> _Run:
    from tactful_federated.transport.superlink import QUIET

    command = [*python, "-m", "benchmarks.federated.scale", who, str(rounds)]
    quiet = {**QUIET, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        cwd=_ROOT,
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        timeout=1_800,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{who} failed: {done.stderr.strip()[-600:]}")
    return _Run(**json.loads(done.stdout.strip().splitlines()[-1]))


def _flower_python() -> Path:
    """A Python that sees our libraries, so that both train by the same ones, and has Ray beside."""
    folder = _ROOT / ".venv-peers-flower"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.check_output([str(python), "-c", where], text=True).strip()
    seen = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (Path(site) / "ours.pth").write_text(seen, "utf-8")
    subprocess.run([str(python), "-m", "pip", "install", "-q", _SIMULATION], check=True)
    return python


def _weights() -> Vector:
    size = parameter_count(_VOCABULARY.size)
    return np.random.default_rng(_SEED).normal(0, 0.1, size).astype(np.float32)


def _questions(device: int) -> Windows:
    history = sample_history(device, baskets=_VISITS, seed=_SEED)
    return windows(
        _VOCABULARY.sequence(history), scored=_SETTINGS.scored, context=_SETTINGS.context
    )


@dataclass
class _Rounds:
    """Takes the times of a process's rounds."""

    begun: float
    start_s: float = 0.0
    cpu_before: float = 0.0
    cpu_s: float = 0.0
    memory_mb: float = 0.0

    def __post_init__(self) -> None:
        self.seconds: list[float] = []

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """A round; the first is the start."""
        begun = time.perf_counter()
        yield
        if self.start_s:
            self.seconds.append(time.perf_counter() - begun)
            self.cpu_s = _tree_cpu_s() - self.cpu_before
        else:
            self.start_s = time.perf_counter() - self.begun
            self.cpu_before = _tree_cpu_s()
        self.memory_mb = max(self.memory_mb, _tree_memory_mb())

    def run(self, version: str) -> _Run:
        """All of them; Ray's processes may be gone by now."""
        return _Run(self.start_s, self.seconds, self.cpu_s, self.memory_mb, version)


def _tactful(rounds: int) -> _Run:
    """Ours: one process, a thread on each core, devices stacked."""
    times = _Rounds(time.perf_counter())
    population = _stacked(range(_DEVICES))
    weights, draw = _weights(), np.random.default_rng(_SEED)
    for number in range(rounds + 1):
        with times.one():
            cohort = draw.choice(_DEVICES, _COHORT, replace=False).tolist()
            total = np.zeros(weights.size)
            for _, update in population.train(cohort, weights, number):
                total += update
            weights = (weights + total / _COHORT).astype(np.float32)
    return times.run(importlib.metadata.version("tactful"))


def _flower(rounds: int) -> _Run:
    """Flower's: a Ray actor on each core, messages through its in-memory link."""
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    from tactful_federated.transport.flower_clear import FlowerPopulation, client_app

    times, server = _Rounds(time.perf_counter()), ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        population = FlowerPopulation(grid, _VOCABULARY)
        while len(population.ids()) < _DEVICES:
            time.sleep(0.05)
        weights, draw = _weights(), np.random.default_rng(_SEED)
        for number in range(rounds + 1):
            with times.one():
                ids = population.ids()
                chosen = draw.choice(len(ids), _COHORT, replace=False).tolist()
                total, reports, nodes = np.zeros(weights.size), 0, [ids[n] for n in chosen]
                for _, update in population.train(nodes, weights, number):
                    total += update
                    reports += 1
                given, weights = weights, (weights + total / _COHORT).astype(np.float32)
            if reports != _COHORT:
                raise HistoryError(f"{reports} of {_COHORT} devices reported")
        _check(total, [node % _DEVICES for node in nodes], given, rounds)

    run_simulation(
        server,
        client_app(_device_of),
        _DEVICES,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    version = importlib.metadata.version
    return times.run(f"{version('flwr')} on Ray {version('ray')}")


@lru_cache(maxsize=1)
def _model() -> IntentModel:
    import torch

    from tactful_federated.model.lstm_torch import IntentModel

    torch.set_num_threads(1)
    return IntentModel(_VOCABULARY.size)


def _device_of(context: Context) -> TorchDevice:
    from benchmarks.federated.torch_device import TorchDevice

    number = context.node_id % _DEVICES
    history = sample_history(number, baskets=_VISITS, seed=_SEED)
    return TorchDevice(history, _VOCABULARY, _model(), _SETTINGS, seed=_SEED + number)


def _stacked(devices: Sequence[int]) -> SimulatedPopulation:
    questions = {device: _questions(device).compact() for device in devices}
    return SimulatedPopulation(
        questions,
        _VOCABULARY.size,
        settings=_SETTINGS,
        seed=_SEED,
        group=25,
        threads=os.cpu_count() or 1,
    )


def _check(total: Doubles, numbers: Sequence[int], weights: Vector, round_number: int) -> None:
    """Raise unless our devices of these numbers say the same."""
    again = np.zeros(weights.size)
    for _, update in _stacked(numbers).train(numbers, weights, round_number):
        again += update
    if not np.allclose(total, again, rtol=1e-3, atol=1e-3):
        worst = float(np.abs(total - again).max())
        raise RuntimeError(f"the two did not train the same: their sums differ by up to {worst}")


def _tree() -> list[int]:
    """This process and all that came of it."""
    found, waiting = [], [os.getpid()]
    while waiting:
        found.append(waiting.pop())
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{found[-1]}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
    return found


def _tree_cpu_s() -> float:
    """CPU of the processes that live, and of those of their children that ended."""
    ticks = 0
    for pid in _tree():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def _tree_memory_mb() -> float:
    """Proportional set sizes, which count shared pages once."""
    total = 0
    for pid in _tree():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


if __name__ == "__main__":
    from benchmarks.federated import scale as named

    measure = {"tactful": named._tactful, "flower": named._flower}[sys.argv[1]]
    print(json.dumps(asdict(measure(int(sys.argv[2])))))
