"""SASRec of `rectools` and GRU4Rec of `recbole`, where the Python of the peers has them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.peers import Lists, Peer, popular_rows
from benchmarks.quality.questions import Trial
from tactful.training.evaluation import CUTOFF

_ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("TACTFUL_BENCH_PEERS", _ROOT / ".venv-peers" / "bin" / "python"))
"""The Python that has the models; nobody installs them for a benchmark, they are large."""

MINUTES = 8.0
_MODELS = {"sasrec": ("sasrec_lists.py", "rectools"), "gru4rec": ("gru4rec_lists.py", "recbole")}


def sequence_peers(minutes: float = MINUTES) -> tuple[list[Peer], Mapping[str, str]]:
    """Return the peers that can run, and why the others cannot, by name."""
    peers, missing = [], {}
    for name, (script, package) in _MODELS.items():
        command = [str(PYTHON), "-c", f"import {package}"]
        if not PYTHON.exists():
            missing[name] = f"skipped: {PYTHON} does not exist; install {package} there"
        elif subprocess.run(command, capture_output=True, check=False).returncode:
            missing[name] = f"skipped: {PYTHON} cannot import {package}"
        else:
            peers.append(_peer(name, script, minutes))
    return peers, missing


def _peer(name: str, script: str, minutes: float) -> Peer:
    path = _ROOT / "benchmarks" / "peers" / script

    def lists(trial: Trial) -> Lists:
        with tempfile.TemporaryDirectory(prefix="tactful-bench-") as folder:
            source, target = Path(folder) / "sequences.npz", Path(folder) / "lists.npy"
            np.savez(
                source,
                visits=_flat(trial.visits),
                visit_sizes=np.array([len(visit) for visit in trial.visits], np.int64),
                questions=_flat([question.known for question in trial.questions]),
                question_sizes=np.array([len(it.known) for it in trial.questions], np.int64),
            )
            subprocess.run(
                [str(PYTHON), str(path), str(source), str(target), str(minutes)],
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=60 * (minutes + 30),
            )
            ranked = np.load(target)
        return _without_visit(trial, ranked)

    return Peer(name, lists)


def _flat(sequences: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.fromiter((item for sequence in sequences for item in sequence), np.int64)


def _without_visit(trial: Trial, ranked: Lists) -> Lists:
    """Leave out the items of the visit, and fill up with popular ones."""
    popular = popular_rows(trial)[: 4 * CUTOFF].tolist()
    lists = np.full((len(trial.questions), CUTOFF), -1, np.int64)
    for row, question in enumerate(trial.questions):
        known = () if trial.repeats else question.prefix
        items = dict.fromkeys([*ranked[row].tolist(), *popular])
        kept = [item for item in items if item >= 0 and item not in known][:CUTOFF]
        lists[row, : len(kept)] = kept
    return lists
