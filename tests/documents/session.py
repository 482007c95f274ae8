"""Run the steps of a document in one shell session, in a folder that looks like a checkout."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.documents.markdown_script import Step, absent_lines

from benchmarks.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PRELUDE = Path(__file__).with_name("session.sh")

# Parts of a checkout that documents name; a session may not write into them.
_LINKED = ("platform", "examples", "deploy", "sdk", "pyproject.toml")

_SUFFIX = {"python": "py", "sh": "sh"}


class Session:
    """One shell session.

    Args:
        folder: an empty folder; the session runs in ``checkout`` in it.
        environment: variables beside those of this process that are not settings of tactful.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self.webhook = f"http://127.0.0.1:{free_port()}"
        self.checkout = folder / "checkout"
        self._parts = folder / "parts"
        for place in (self.checkout, self._parts):
            place.mkdir()
        for name in _LINKED:
            (self.checkout / name).symlink_to(ROOT / name)
        # The environment of the tests is active, and no script may make it anew.
        activate = self.checkout / ".venv" / "bin" / "activate"
        activate.parent.mkdir(parents=True)
        activate.touch()
        own = {k: v for k, v in os.environ.items() if not k.startswith("TACTFUL_")}
        self._environment = {
            **own,
            "PATH": f"{Path(sys.executable).parent}:{own['PATH']}",
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(folder / "state"),
            "TACTFUL_URL": f"http://127.0.0.1:{self.port}",
            "TACTFUL_SERVER__PORT": str(self.port),
            "TACTFUL_WORKER__METRICS_PORT": str(free_port()),
            "BESIDE_PORT": str(free_port()),
            "PAGES_URL": f"http://127.0.0.1:{free_port()}",
            "WEBHOOK_URL": self.webhook,
            "DASHBOARD_URL": f"http://127.0.0.1:{free_port()}",
            "OMP_NUM_THREADS": "1",
            "session": str(self._parts),
            "documents": str(PRELUDE.parent),
            **environment,
        }

    def run(self, steps: list[Step], seconds: float = 400.0) -> str:
        """Take the steps; return what is wrong, or nothing.

        Args:
            steps: steps of a document, with the names of this session.
            seconds: limit of all together.
        """
        script = "\n".join(self._command(number, step) for number, step in enumerate(steps))
        (self._parts / "script").write_text(f"source {PRELUDE}\n{script}\n", encoding="utf-8")
        with subprocess.Popen(
            ["bash", str(self._parts / "script")],
            cwd=self.checkout,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                reached = process.communicate(timeout=seconds)[0].splitlines()
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGTERM)
                reached = process.communicate()[0].splitlines()
        if process.returncode:
            number = max(int(line) for line in reached if line.isdigit())
            return self._failure(number, steps[number], process.returncode)
        return self._unprinted(steps)

    def _command(self, number: int, step: Step) -> str:
        """Write a step to a file; return the line of the script that takes it."""
        part = self._parts / f"{number}.{_SUFFIX.get(step.action, 'txt')}"
        part.write_text(step.code, encoding="utf-8")
        place, printed = shlex.quote(str(part)), shlex.quote(str(self._output(number)))
        name = shlex.quote(step.text)
        match step.action:
            case "sh":
                command = f"source {place} > {printed} 2>&1"
            case "python":
                command = f"python {place} > {printed} 2>&1"
            case "file":
                command = f"cat {place} > {name}"
            case "adds to":
                command = f"cat {place} >> {name}"
            case _:
                return ""
        return f"echo {number}\n{command}"

    def _output(self, number: int) -> Path:
        return self._parts / f"{number}.out"

    def _failure(self, number: int, step: Step, code: int) -> str:
        printed = self._output(number)
        logs = [f"{log.name}:\n{log.read_text()[-1500:]}" for log in self._parts.glob("*.log")]
        words = printed.read_text()[-3000:] if printed.exists() else ""
        return "\n".join(
            [f"line {step.line} failed with exit code {code}:", step.code, words, *logs]
        )

    def _unprinted(self, steps: list[Step]) -> str:
        """Return the lines that the document shows and the blocks before did not print."""
        printed = ""
        for number, step in enumerate(steps):
            if step.action != "printed":
                output = self._output(number)
                printed += output.read_text() if output.exists() else ""
                continue
            if absent := absent_lines(step.code, printed):
                return "\n".join([f"line {step.line}: not printed:", *absent, "but:", printed])
        return ""
