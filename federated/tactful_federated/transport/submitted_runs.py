"""Runs of `flwr run` on a SuperLink: those of the projects that its operator named, and no others.

The Control API has no authentication, so whoever reaches it can submit code. The SuperLink itself
starts no app. This module takes the task of each run and starts Flower's own program for it if the
SHA-256 of its bundle is that of a named project; any other run is refused, with the reason in
`flwr list` and `flwr log`. Nodes get messages, and so a bundle, only of a run that was started.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from tactful_federated.core.checkpoint import write_whole
from tactful_federated.errors import SettingsError, extra
from tactful_federated.transport.run_tasks import RunTask
from tactful_federated.transport.superlink import SuperLink, SuperLinkError, quiet_environment

with extra():
    import httpx
    from flwr.cli.build import build_fab_from_disk

_END_S = 10.0


def project_hash(project: Path) -> str:
    """Return the SHA-256, in hexadecimal, of the bundle that `flwr run` submits of a project.

    Raises:
        SettingsError: The folder is not a project of Flower.
    """
    if not (project / "pyproject.toml").is_file():
        raise SettingsError(f"{project} has no pyproject.toml: give the folder of a Flower project")
    try:
        return hashlib.sha256(build_fab_from_disk(project)).hexdigest()
    except (ValueError, OSError, KeyError, click.ClickException) as error:
        raise SettingsError(f"{project} is not a project of Flower: {error}") from error


class SubmittedRuns:
    """Context manager that leads submitted runs of the named projects.

    Args:
        link: Running SuperLink.
        authority: PEM file of the authority of its certificate.
        projects: Folders of Flower projects by `project_hash`.
    """

    def __init__(self, link: SuperLink, authority: Path, projects: Mapping[str, Path]) -> None:
        """Lead nothing yet."""
        self._link, self._authority, self._projects = link, authority, projects
        self._led: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> SubmittedRuns:
        """Open the client of tasks; delete what a process that was killed has left."""
        for token in self._link.directory.glob("run-*.token"):
            token.unlink()
        self._tasks = self._link.tasks()
        return self

    def __exit__(self, *_: object) -> None:
        """End the runs that are led; a project that keeps a checkpoint can resume."""
        self._tasks.close()
        for process in self._led.values():
            process.terminate()
        for process in self._led.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            process.kill()
            process.wait()
        self._forget_ended()

    def step(self) -> RunTask | None:
        """Start or refuse the next submitted run; return its task, None without any.

        Raises:
            SuperLinkError: The SuperLink has ended.
        """
        self._forget_ended()
        try:
            task = self._tasks.take()
            if task is not None and task.bundle not in self._projects:
                self._tasks.refuse(
                    task,
                    f"the bundle {task.bundle} is none of the projects named at the start of"
                    " `tactful federated superlink`: name it there by --app, with the same files",
                )
        except httpx.TransportError as error:
            raise SuperLinkError(
                f"the SuperLink stopped answering; see {self._link.directory / 'superlink.log'}"
            ) from error
        if task is not None and task.bundle in self._projects:
            self._start(task)
        return task

    def _start(self, task: RunTask) -> None:
        program = shutil.which("flwr-serverapp", path=str(Path(sys.executable).parent))
        if program is None:
            raise SuperLinkError("flwr-serverapp is missing: install 'tactful[federated]'")
        token = self._token(task.run)
        write_whole(token, task.token.encode())  # arguments can be read by other accounts
        command = [program, "--runtime-api-address", self._link.address]
        command += ["--root-certificates", str(self._authority), "--parent-pid", str(os.getpid())]
        with (self._link.directory / "apps.log").open("ab") as log:
            self._led[task.run] = subprocess.Popen(
                [*command, "--token-file", str(token)],
                stdout=log,
                stderr=log,
                env=quiet_environment(self._link.directory),
            )

    def _forget_ended(self) -> None:
        for run in [run for run, process in self._led.items() if process.poll() is not None]:
            del self._led[run]
            self._token(run).unlink(missing_ok=True)

    def _token(self, run: int) -> Path:
        return self._link.directory / f"run-{run}.token"
