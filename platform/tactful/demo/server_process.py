"""A server of a demo: its data directory, and its process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tactful.errors import StorageError, TactfulError
from tactful.metadata.directory_lock import exclusive
from tactful.util.signals import end_process

SETTINGS = "tactful.toml"
_SIGNED = "# Written by `tactful demo`.\n"
_PATIENCE_S = 30.0


def clear(directory: Path) -> None:
    """Remove the files of an earlier run from `directory`, and no others.

    Raises:
        TactfulError: if there is anything in it and its settings were not written by a demo, or a
            server uses it.
    """
    if not directory.exists():
        return
    settings = directory / SETTINGS
    ours = settings.is_file() and settings.read_text("utf-8", "replace").startswith(_SIGNED)
    if not ours and (not directory.is_dir() or any(directory.iterdir())):
        raise TactfulError(
            f"{directory}: holds something that no demo left there, and a demo begins by removing "
            "what it finds; name another --directory"
        )
    if ours:
        try:
            with exclusive(directory):
                pass
        except StorageError as error:
            raise TactfulError(
                f"{directory}: a server of an earlier run still uses it; end that run, or name "
                "another --directory"
            ) from error
    shutil.rmtree(directory)


def write_settings(directory: Path, settings: str) -> Path:
    """Make `directory` with settings that name it as the data directory; return their path."""
    directory.mkdir(mode=0o700, parents=True)
    path = directory / SETTINGS
    data = json.dumps(str(directory.resolve()))
    path.write_text(f"{_SIGNED}[storage]\ndata = {data}\n{settings}", "utf-8")
    return path


@contextmanager
def running_server(directory: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run ``tactful serve --dev`` as a child process, with its address; end it gracefully.

    Raises:
        TactfulError: if it does not start; the message has the last line of its log.
    """
    command = [sys.executable, "-m", "tactful", "serve", "--dev", "--json"]
    command += ["--port", str(port), "--config", str(directory / SETTINGS)]
    log = directory / "server.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise TactfulError(f"the server did not start: {last_line(log)}")
        yield process, json.loads(line)["url"]
    finally:
        end_process(process, _PATIENCE_S)


def last_line(path: Path) -> str:
    """Return the last line of a log, with its place."""
    lines = path.read_text("utf-8", "replace").strip().splitlines()
    return f"{lines[-1]} (more in {path})" if lines else f"see {path}"
