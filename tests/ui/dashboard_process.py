"""The dashboard as a process, and JavaScript that looks for a text on its pages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from tests.platform.support import wait_until

from benchmarks.ports import free_port
from tactful_ui import ENTRY


@contextmanager
def dashboard(
    url: str, folder: Path, *, port: int = 0, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The address of the dashboard of the server at `url`; it is served until the block ends.

    `environment` replaces the variables of this process.
    """
    port = port or free_port()
    known = os.environ if environment is None else environment
    command = [sys.executable, "-m", "streamlit", "run", str(ENTRY)]
    command += ["--server.headless=true", f"--server.port={port}"]
    log = folder / "streamlit.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=out, env={**known, "TACTFUL_URL": url}
        )
        address = f"http://127.0.0.1:{port}"

        def served() -> bool:
            assert process.poll() is None, log.read_text(errors="replace")
            with suppress(httpx.TransportError):
                return httpx.get(f"{address}/_stcore/health", trust_env=False).is_success
            return False

        try:
            wait_until(served)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=60)


def says(text: str) -> str:
    """JavaScript that is true once the page says `text`."""
    return f"(document.body ? document.body.innerText : '').includes({json.dumps(text)})"
