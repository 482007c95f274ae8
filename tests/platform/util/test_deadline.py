"""A process that ends in time although a library waits without end."""

from __future__ import annotations

import subprocess
import sys
import time

HANGING = """
import threading
from tactful.util.deadline import Deadline
from tactful.util.signals import on_stop_signals

with Deadline(0.2, 75, "not all work ended") as deadline, on_stop_signals(deadline.begin):
    print("began", flush=True)
    hung = threading.Lock()  # nobody releases it, as in a native library that waits
    hung.acquire()
    hung.acquire()
"""


def test_a_process_that_hangs_ends() -> None:
    command = [sys.executable, "-c", HANGING]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        process.terminate()
        began = time.monotonic()
        assert process.wait(30) == 75
        assert time.monotonic() - began < 10
        assert process.stderr is not None
        said = process.stderr.read()
    assert said.startswith("not all work ended\n")
    assert "most recent call first" in said


def test_a_process_that_ends_in_time_keeps_its_code() -> None:
    program = (
        "import time\nfrom tactful.util.deadline import Deadline\n"
        "with Deadline(0.1, 75, 'late') as deadline:\n    deadline.begin()\n    deadline.begin()\n"
        "time.sleep(0.3)\nraise SystemExit(3)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (3, b"")
