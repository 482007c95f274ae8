"""What can stand between the dashboard and a report.

* SourceError
  - ServerDown: nothing answers at the address.
  - Unauthorised: the server wants a key, or a key with a wider scope.
  - NoReport: the server answers and has nothing to show yet.
  - BadAnswer: the server answers with something the dashboard cannot read.

Every page turns these into a sentence and a command (see `tactful_ui.shell`); none of them
reaches the reader as a traceback.
"""

from __future__ import annotations


class SourceError(Exception):
    """The dashboard could not get what it wanted from the server."""


class ServerDown(SourceError, ConnectionError):
    """Nothing answers at the server's address, or not in time."""


class Unauthorised(SourceError, PermissionError):
    """The server refuses the key (or the lack of one)."""


class NoReport(SourceError, LookupError):
    """The server has no report, statistic or model of that name yet."""


class BadAnswer(SourceError, ValueError):
    """The answer is not what the API promises, or the server failed while giving it."""
