"""`tactful demo --shop` as a process, for as long as a test needs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_shop(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command on a free port; gives its process, and the address that it prints."""
    command = [sys.executable, "-m", "tactful", "demo", "--shop", "--no-open", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--directory", str(directory)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory.parent,
        env={**os.environ, "NO_PROXY": "*"},
    )
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if match := re.search(r"The shop is open: (http://127\.0\.0\.1:\d+)", line):
                yield process, match[1]
                break
        else:
            raise AssertionError("".join(said))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)
        process.stderr.close()
