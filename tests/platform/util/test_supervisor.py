"""A process that is started again when it crashes, and not when it has ended by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tactful.util.supervisor import supervise

CHILD = """
import os, signal, sys
runs = os.path.getsize(sys.argv[1]) if os.path.exists(sys.argv[1]) else 0
open(sys.argv[1], "a").write("x")
end = sys.argv[2].split(",")[runs]
if end.startswith("SIG"):
    os.kill(os.getpid(), getattr(signal, end))
sys.exit(int(end))
"""


def run(file: Path, ends: str) -> tuple[int, list[str]]:
    reports: list[str] = []
    command = [sys.executable, "-S", "-E", "-c", CHILD, str(file), ends]
    return supervise(command, again=75, report=reports.append, pause_s=0.01), reports


@pytest.mark.parametrize(
    ("ends", "code", "starts"),
    [
        ("SIGSEGV,SIGABRT,75,0", 0, 4),
        ("SIGBUS,1", 1, 2),
        ("3", 3, 1),
        ("SIGKILL,0", 0, 2),
        ("SIGTERM", 143, 1),
    ],
)
def test_what_crashes_is_started_again(tmp_path: Path, ends: str, code: int, starts: int) -> None:
    file = tmp_path / "runs"
    ended, reports = run(file, ends)
    assert (ended, file.stat().st_size) == (code, starts)
    assert len(reports) == starts - 1
    if ends.startswith("SIG") and reports:
        assert f"({ends.split(',')[0]})" in reports[0]
        assert "Committed data stays" in reports[0]


PARENT = """
import sys
from tactful.util.supervisor import supervise
child = "import time; print('began', flush=True); time.sleep(600)"
sys.exit(supervise([sys.executable, "-S", "-E", "-c", child], again=75, report=print))
"""


@pytest.mark.parametrize("kill", [False, True])
def test_its_end_is_passed_on(kill: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"began\n"
        if kill:
            parent.kill()
        else:
            parent.terminate()
        # The child had the same output: it ends with the last of both.
        assert parent.stdout.read() == b""
    assert parent.returncode == (-9 if kill else 143)
