"""A fresh installation of the wheel, and the terminal of somebody who has never used it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]

_PATIENCE_S = 300  # on a busy machine a training takes minutes


def install(folder: Path) -> Path:
    """Build both wheels and install them in a new environment; return the folder of programs.

    Libraries are those of this environment, which a `.pth` file adds behind the wheel's own files.
    """
    pip = [sys.executable, "-m", "pip"]
    options = ["--quiet", "--no-deps", "--no-index"]
    build = ["wheel", *options, "--no-build-isolation", "--wheel-dir", str(folder)]
    _check([*pip, *build, str(ROOT), str(ROOT / "device")])
    wheels = [str(path) for path in folder.glob("tactful*.whl")]
    target = folder / "venv"
    venv.create(target)
    python = target / "bin" / "python"
    _check([*pip, "--python", str(python), "install", *options, *wheels])
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(_check([str(python), "-c", code]).strip())
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return target / "bin"


def _check(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Printed:
    """Output of one command."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on standard error, or nothing."""
        return (self.err.strip().splitlines() or [""])[-1]


@dataclass(frozen=True)
class Terminal:
    """A terminal in an empty folder, with an empty home and the installed command on the path.

    Attributes:
        programs: folder of the installed programs.
        folder: working directory.
        before: words before each command, such as those of another user.
        variables: environment variables to add.
    """

    programs: Path
    folder: Path
    before: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Return the variables of a new login, and the cache of machine code of the tests."""
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        home = {"HOME": str(self.folder), "PATH": path, "LANG": "C.UTF-8"}
        kept = {"NUMBA_CACHE_DIR": os.environ["NUMBA_CACHE_DIR"]}
        return home | kept | dict(self.variables)

    def start(self, line: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command as it is written in a document."""
        words = [*self.before, *shlex.split(line)]
        environment = self.environment()
        return subprocess.Popen(
            words, cwd=self.folder, env=environment, text=True, stdin=subprocess.DEVNULL, **options
        )

    def run(self, line: str, code: int = 0) -> Printed:
        """Run a command; fail with its output unless it ends with this exit code."""
        process = self.start(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=_PATIENCE_S)
        assert process.returncode == code, f"{line}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return Printed(process.returncode, out, err)

    @contextmanager
    def serving(self, options: str = "--dev") -> Iterator[Shop]:
        """Run a server on a free port until the end of the block."""
        printed = self.folder / "serve.out"
        with printed.open("w") as file:
            process = self.start(f"tactful serve {options} --port 0", stdout=file, stderr=file)
        try:
            wait_until(lambda: " serves on " in printed.read_text() or process.poll() is not None)
            address = re.search(r"tactful serves on (\S+)", printed.read_text())
            assert address is not None, printed.read_text()
            variables = {**self.variables, "TACTFUL_URL": address[1]}
            terminal = Terminal(self.programs, self.folder, self.before, variables)
            with httpx.Client(base_url=address[1], timeout=60, trust_env=False) as http:
                yield Shop(terminal, address[1], http)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_PATIENCE_S)
            finally:
                process.kill()


@dataclass(frozen=True)
class Shop:
    """A running server, and a terminal whose commands call it."""

    terminal: Terminal
    url: str
    http: httpx.Client

    def run(self, line: str, code: int = 0) -> Printed:
        """Run a command with the address of the server in `TACTFUL_URL`."""
        return self.terminal.run(line, code)

    def recommend(self, **fields: Any) -> dict[str, Any]:
        """Return an answer over HTTP."""
        answer = self.http.post("/v1/recommend", json=fields)
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content

    def items(self, **fields: Any) -> list[str]:
        """Return the recommended item ids."""
        return [item["item_id"] for item in self.recommend(**fields)["items"]]

    def applied(self) -> None:
        """Wait until the engine has applied everything, and lists hold every item."""
        wait_until(lambda: self.http.get("/readyz").status_code == 200)
        time.sleep(1.0)  # lists take up new items within a second

    def trained(self) -> str:
        """Train as the documents say; return the version once the server serves it.

        Where the command holds a version back, it is promoted as the command says.
        """
        printed = self.run("tactful train --promote")
        held_back = re.match(r"ranker version \d+; `(tactful models promote \d+)`", printed.out)
        if held_back is None:
            assert re.match(r"ranker version \d+ is the champion\n", printed.out), printed.out
        else:
            assert "Doubtful, so --promote does not make it the champion" in printed.err
            self.run(held_back[1])
        version = printed.out.split()[2].strip(";")
        wait_until(lambda: self._champion() == version)
        return version

    def _champion(self) -> str | None:
        version: str | None = (self.http.get("/v1/models").json()["champion"] or {}).get("version")
        return version


def wait_until(condition: Callable[[], object], seconds: float = _PATIENCE_S) -> None:
    """Wait until something is true, and fail after a while."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not become true"
        time.sleep(0.05)
