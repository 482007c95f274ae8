"""`tactful demo --shop` as a process, for as long as a test needs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_shop(directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run the command on a free port; gives its process, and the address of its pages."""
    command = [sys.executable, "-m", "tactful", "demo", "--shop", "--no-open", "--json"]
    log = directory.with_suffix(".log")
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, "--port", "0", "--directory", str(directory)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=directory.parent,
            env={**os.environ, "NO_PROXY": "*"},
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        yield process, json.loads(line)["url"]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)
        process.stdout.close()
