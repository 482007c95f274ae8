"""Errors between the dashboard and the server.

Every page shows these as a sentence and a command (see `tactful_ui.components.shell`), never as a
traceback.
"""

from __future__ import annotations


class SourceError(Exception):
    """The dashboard could not fetch data from the server."""


class ServerDown(SourceError, ConnectionError):
    """No server answers at the address, or not in time."""


class Unauthorised(SourceError, PermissionError):
    """The server rejects the key, or its rights are not enough."""


class NotSignedIn(Unauthorised):
    """The server does not know the key, or does not accept the ID token any more."""


class TooBroadKey(SourceError, PermissionError):
    """The key that all readers share may do more than read."""


class NotFound(SourceError, LookupError):
    """The server has nothing of that name, or no more."""


class NoReport(NotFound):
    """The server has no report yet."""


class BadAnswer(SourceError, ValueError):
    """The answer does not follow the API, or the server failed."""


class Refused(BadAnswer):
    """The server understood the request and refuses it; the message says why."""
