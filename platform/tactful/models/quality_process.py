"""Process that measures the live quality every so often beside a server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from tactful.config.settings import Settings
from tactful.errors import ModelError
from tactful.models.schedule import environment, run_command


class QualityMeasurer:
    """Measures in a process of its own while the log grows."""

    def __init__(
        self, settings: Settings, end: Callable[[], Sequence[int]], *, python: str = sys.executable
    ) -> None:
        """Measure nothing yet; `end` returns the end of the log by partition."""
        self._settings = settings
        self._end = end
        self._python = python
        self._measured: Sequence[int] = ()

    async def run(self) -> None:
        """Measure if the log grew.

        Raises:
            ModelError: if the command fails.
            OSError: if it cannot be started.
        """
        reached = [*self._end()]
        if reached == self._measured or not any(reached):
            return
        command = [self._python, "-m", "tactful", "models", "quality", "--json"]
        code, message = await run_command(command, {**os.environ, **environment(self._settings)})
        if code:
            raise ModelError(message)
        self._measured = reached
