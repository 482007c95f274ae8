"""Cases of the quality benchmark in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks.quality import floors
from benchmarks.quality.case_processes import run_apart
from benchmarks.quality.floors import Options, measure_sets


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_so_many_run_at_once_in_their_order(tmp_path: Path) -> None:
    note = f"from pathlib import Path; import time; p = Path({str(tmp_path)!r})\n"
    wait = note + "begun = time.monotonic(); time.sleep(1)\n"
    wait += "p.joinpath(N).write_text(f'{begun} {time.monotonic()}')"
    commands = {name: script(wait.replace("N", repr(name), 1)) for name in "abcd"}
    commands["e"] = script("import sys; print('why'); sys.exit(3)")
    codes = run_apart(commands, tmp_path / "logs", most=2)
    assert codes == {"a": 0, "b": 0, "c": 0, "d": 0, "e": 3}
    assert (tmp_path / "logs" / "e.log").read_text() == "why\n"
    spans = [[*map(float, (tmp_path / name).read_text().split())] for name in "abcd"]
    for begun, _ in spans:
        assert sum(start <= begun < end for start, end in spans) <= 2
    assert max(spans[:2])[0] < min(spans[2:])[0]


def test_processes_end_with_the_run(tmp_path: Path) -> None:
    """A stop of the benchmark leaves none behind."""
    # A shell that starts the tests in the background lets them ignore this signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    pid = tmp_path / "pid"
    text = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"

    def stop() -> None:
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_apart({"long": script(text)}, tmp_path / "logs", most=1)
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_whole_run_measures_each_case_once_the_longest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Sequence[str]] = {}

    def run(commands: Mapping[str, Sequence[str]], folder: Path, *, most: int) -> None:
        assert most >= 1
        assert folder.is_relative_to(tmp_path)
        asked.update(commands)
        raise InterruptedError

    monkeypatch.setattr(floors, "_FOLDER", tmp_path)
    monkeypatch.setattr(floors, "run_apart", run)
    with pytest.raises(InterruptedError):
        measure_sets(Options())
    assert [*asked][:2] == ["completejourney-whole", "online_retail-whole"]
    assert len(asked) == 30
    assert [*asked["funnel-as_click"]][-4:] == ["--only", "funnel", "--variant", "as_click"]
    done = subprocess.run([*asked["funnel-whole"], "--help"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
