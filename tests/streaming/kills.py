"""Programs that are killed again and again until they are done."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def run_with_kills(
    program: str,
    directory: Path,
    rng: random.Random,
    most_lines: int,
    between: Callable[[], None] = lambda: None,
) -> int:
    """Run a program until it prints ``done``, and kill it after random lines before.

    Returns:
        Number of kills; `between` is called after each.
    """
    command, kills = [sys.executable, "-c", program, str(directory)], 0
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(rng.randrange(1, most_lines)):
                line = process.stdout.readline().strip()
                assert line, "the process died by itself"
                if line == "done":
                    return kills
            process.send_signal(signal.SIGKILL)
            kills += 1
        between()
