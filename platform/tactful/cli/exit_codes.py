"""Exit codes: one meaning each, for all commands.

The table in ``docs/reference/cli.md`` lists them.
"""

from __future__ import annotations

from enum import IntEnum

from tactful.errors import (
    ApiError,
    ApiKeyError,
    ConfigError,
    ConnectionFailed,
    RequestRefused,
    TactfulError,
    UnknownVersion,
)


class ExitCode(IntEnum):
    """Outcome of a command."""

    DONE = 0
    FAILED = 1  # the work was not done; one line says why
    WRONG_USAGE = 2  # of options, settings, definitions or rules; nothing was done
    NO_ANSWER = 3  # of a server
    REFUSED = 4  # by a server
    UNRELIABLE = 5  # the verdict of an audit
    PARTLY_DONE = 6  # some elements were refused or remain, each of which is named
    PROBLEM_FOUND = 7  # by a check
    START_AGAIN = 75  # nothing is lost


_BY_ERROR: tuple[tuple[type[TactfulError], ExitCode], ...] = (
    (ConfigError, ExitCode.WRONG_USAGE),
    (ApiKeyError, ExitCode.WRONG_USAGE),
    (UnknownVersion, ExitCode.WRONG_USAGE),
    (ConnectionFailed, ExitCode.NO_ANSWER),
    (ApiError, ExitCode.REFUSED),
    (RequestRefused, ExitCode.REFUSED),
)


def code_of(error: TactfulError) -> ExitCode:
    """Return the exit code of a command that ended with an error."""
    codes = (code for kind, code in _BY_ERROR if isinstance(error, kind))
    return next(codes, ExitCode.FAILED)
