"""Databases of a benchmark's own, on free ports of the loopback interface, gone at its end."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.ports import await_port, free_port

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


@contextlib.contextmanager
def redis(scratch: Path) -> Iterator[str]:
    """A Redis that keeps everything in memory; its URL."""
    port = free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(scratch)]
    with _running(["redis-server", *options], port, scratch):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def mariadb(scratch: Path) -> Iterator[str]:
    """A MariaDB with an empty database; its SQLAlchemy URL.

    Raises:
        FileNotFoundError: if it is not installed.
        CalledProcessError: if it cannot make its tables.
    """
    port = free_port()
    with _running(mariadb_command(scratch, port), port, scratch):
        yield mariadb_url(port)


def mariadb_url(port: int) -> str:
    """Return the SQLAlchemy URL of the database of a MariaDB."""
    return f"mysql+pymysql://root@127.0.0.1:{port}/tactful?charset=utf8mb4"


def mariadb_command(scratch: Path, port: int) -> list[str]:
    """Make the tables of a MariaDB in a folder; return the command that runs it.

    Raises:
        FileNotFoundError: if it is not installed.
        CalledProcessError: if it cannot make its tables.
    """
    data, user = scratch / "mariadb", getpass.getuser()
    install, server = (shutil.which(it, path=_PATH) for it in ("mariadb-install-db", "mariadbd"))
    if install is None or server is None:
        raise FileNotFoundError("MariaDB is not installed")
    log = scratch / "mariadb.log"
    with log.open("wb") as out:
        subprocess.run(
            [
                *(install, "--no-defaults", f"--user={user}", f"--datadir={data}"),
                *("--skip-test-db", "--auth-root-authentication-method=normal"),
            ],
            check=True,
            stdout=out,
            stderr=out,
        )
    first = scratch / "mariadb.sql"
    first.write_text("CREATE DATABASE IF NOT EXISTS tactful CHARACTER SET utf8mb4;\n")
    command = [server, "--no-defaults", f"--user={user}", f"--datadir={data}", f"--port={port}"]
    command += ["--bind-address=127.0.0.1", f"--socket={scratch / 'mariadb.sock'}"]
    return [*command, f"--pid-file={scratch / 'mariadb.pid'}", f"--init-file={first}"]


@contextlib.contextmanager
def _running(command: Sequence[str], port: int, scratch: Path) -> Iterator[None]:
    with (scratch / f"{Path(command[0]).name}.log").open("ab") as log:
        # In a session of its own: Ctrl-C is for the benchmark, which still needs its databases.
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        await_port(port)
        yield
    finally:
        process.terminate()
        process.wait(30)
