"""Changes of models that a running server is asked for: promote, roll back, train now.

Each is a `tactful` command, a process of its own with the server's settings, so that the server
imports no MLflow, and the same checks apply as on the command line.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from tactful.config.settings import Settings
from tactful.errors import ModelError, TrainingBusy
from tactful.models.schedule import environment, run_command, training_options
from tactful.ranking.model import Pointer, read_pointer, version_directory
from tactful.util.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

_PREFIX = "tactful: "


class ModelCommands:
    """Runs the commands of one server, one change at a time."""

    def __init__(self, settings: Settings, *, python: str = sys.executable) -> None:
        """Prepare; nothing runs yet."""
        self._settings = settings
        self._python = python
        self._changing = asyncio.Lock()
        self._training: asyncio.Task[None] | None = None
        self.error = ""  # why the latest training has failed; empty if it has not

    async def promote(self, version: str, *, by: str, reason: str) -> Pointer:
        """Make a version the champion, and return the new pointer.

        Raises:
            ModelError: if that is refused; the message is that of the command.
            OSError: if no process can be started.
        """
        if not version_directory(self._settings.models, version).is_dir():
            raise ModelError(f"the files of version {version} are not in the models directory")
        return await self._change(["promote", version], by=by, reason=reason)

    async def roll_back(self, *, by: str, reason: str) -> Pointer:
        """Make the previous champion the champion again; as `promote`."""
        pointer = read_pointer(self._settings.models)
        if pointer is None or not pointer.previous:
            raise ModelError("there is no previous champion to go back to")
        return await self._change(["rollback"], by=by, reason=reason)

    async def _change(self, arguments: Sequence[str], *, by: str, reason: str) -> Pointer:
        name = self._settings.training.name
        async with self._changing:
            code, message = await self._run(
                "models", *arguments, f"--name={name}", f"--by={by}", f"--reason={reason}"
            )
        pointer = read_pointer(self._settings.models)
        if code or pointer is None:
            raise ModelError(message.removeprefix(_PREFIX) or "the command was stopped")
        return pointer

    @property
    def training(self) -> bool:
        """Whether a training that was asked for here goes on."""
        return self._training is not None and not self._training.done()

    def train(self, *, by: str, reason: str, promote: bool) -> None:
        """Begin a training with the options of the settings, on the running event loop.

        Raises:
            TrainingBusy: if one runs, whoever started it.
        """
        if self.training or Checkpoint.is_held(self._settings.models / "training"):
            raise TrainingBusy("a training is running; wait until it has ended")
        self.error = ""
        arguments = [*training_options(self._settings.training), f"--by={by}"]
        arguments += [f"--reason={reason}", *(("--promote", "--if-better") if promote else ())]
        self._training = asyncio.create_task(self._train(arguments))

    async def _train(self, arguments: Sequence[str]) -> None:
        try:
            code, message = await self._run("train", "--json", *arguments)
        except OSError as error:
            code, message = 1, f"it could not be started: {error}"
        if code:
            self.error = message.removeprefix(_PREFIX) or "its process was killed"
            logger.error("training failed with exit code %d: %s", code, message)

    async def stop(self) -> None:
        """Stop a training; the next one with the same options resumes it."""
        if self._training is not None:
            self._training.cancel()
            await asyncio.gather(self._training, return_exceptions=True)

    async def _run(self, *arguments: str) -> tuple[int, str]:
        command = [self._python, "-m", "tactful", *arguments]
        return await run_command(command, {**os.environ, **environment(self._settings)})
