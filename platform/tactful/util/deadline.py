"""Longest time in which a process ends once it is to end."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
from types import TracebackType

_SLACK_S = 1.0
"""Time in which the report has to be written."""


class Deadline(contextlib.AbstractContextManager["Deadline"]):
    """Ends this process some seconds after :meth:`begin`, unless its context ends before.

    It is for processes whose stored state is right after any ``kill -9``. A native library may wait
    without end, so that no exception and no signal handler can end the process.
    """

    def __init__(self, seconds: float, code: int, text: str) -> None:
        """Set the time, the exit code, and the line that is written to standard error."""
        self._seconds = seconds
        self._code = code
        self._text = text
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """Begin to count, unless begun."""
        if self._timer is None:
            self._timer = threading.Timer(self._seconds, self._end)
            self._timer.daemon = True
            self._timer.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel the end."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        # Standard error may be a full pipe that nobody reads.
        report = threading.Thread(target=self._report, daemon=True)
        report.start()
        report.join(_SLACK_S)
        os._exit(self._code)

    def _report(self) -> None:
        sys.stderr.write(f"{self._text}\n")
        faulthandler.dump_traceback(file=sys.__stderr__ or 2)
        sys.stderr.flush()
