"""The fuzz of `scripts/bench faults` finds what is planted, and nothing in the decoders."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from benchmarks.faults import damage, fuzz
from benchmarks.faults.decoders import ROOT, Target
from benchmarks.faults.mutate import Mutator
from benchmarks.figures import Figure


def test_inputs_depend_on_seed_and_number_alone() -> None:
    whole = Mutator([b'{"a": [1, "x"]}'], "json", "s").inputs()
    first = [next(whole) for _ in range(600)]
    later = Mutator([b'{"a": [1, "x"]}'], "json", "s").inputs(500)
    assert [next(later) for _ in range(100)] == first[500:]
    assert len(set(first)) > 300


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("error", "KeyError at test_faults.py"),
        ("death", "ended with -9"),
        ("loop", "no end after"),
        ("wait", "no end after"),
    ],
)
def test_planted_failures_are_counted(
    kind: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "CRASHES", tmp_path / "kept")
    monkeypatch.setattr(fuzz, "_HANG_S", 0.3)
    monkeypatch.setattr(fuzz, "_WAIT_S", 0.6)

    def decode(data: bytes) -> None:
        if data == b"valid":
            return
        if kind == "error":
            raise KeyError
        if kind == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "wait":
            time.sleep(60)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            pass

    result = fuzz.fuzz(Target("planted", decode, [b"valid"]), 3, tmp_path)
    assert result.inputs == 3
    assert all(ending in place for place in result.failures)
    assert result.failures.total() >= 1
    inputs = list((tmp_path / "kept").glob("*.input"))
    assert inputs and all(path.read_bytes() != b"valid" for path in inputs)


def test_a_run_that_broke_off_continues(tmp_path: Path) -> None:
    """Targets that were finished are not fuzzed again; a line that was cut off counts as none."""
    whole = tmp_path / "decoded"
    finished = tmp_path / "finished.jsonl"

    def target(name: str) -> Target:
        def decode(data: bytes) -> None:
            with whole.open("a") as file:
                file.write(name)

        return Target(name, decode, [b"valid"])

    first = fuzz.Finished("a", 3, 3, {"KeyError at a.py": 2})
    finished.write_bytes(msgspec.json.encode(first) + b'\n{"target": "b", "cou')
    results = fuzz.fuzz_all([(target("a"), 3), (target("b"), 2)], tmp_path, finished)
    assert results["a"] == fuzz.Result(3, Counter({"KeyError at a.py": 2}))
    assert results["b"] == fuzz.Result(2, Counter())
    assert set(whole.read_text()) == {"b"}
    assert not finished.exists()


@pytest.mark.slow
def test_a_few_thousand_inputs_of_every_decoder_are_refused_cleanly() -> None:
    """In a process of its own: the fuzz forks, and other tests leave threads and locks here."""
    program = (
        "import msgspec; from benchmarks.faults import fuzz\n"
        "print(msgspec.json.encode(fuzz.figures(True, inputs=8_000)).decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made, crashes = msgspec.json.decode(done.stdout, type=list[Figure])
    assert crashes.value == 0, f"{crashes.note}\n{done.stderr}"
    assert made.value is not None
    assert made.value >= 8_000


@pytest.mark.parametrize("kind", ["bit 1", "cut", "emptied", "doubled", "removed", "swapped"])
def test_damage_changes_the_file(kind: str, tmp_path: Path) -> None:
    path, other = tmp_path / "a.log", tmp_path / "b.log"
    path.write_bytes(b"first")
    other.write_bytes(b"second")
    damage.inflict(path, kind)
    assert not path.exists() or path.read_bytes() != b"first"
    assert (other.read_bytes() == b"first") == (kind == "swapped")
