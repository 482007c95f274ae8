"""Data source of the pages: the platform's HTTP API."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from tactful.client import Client, Request, tls_context, with_scheme
from tactful.client.messages import LiveMessage
from tactful_ui.errors import (
    BadAnswer,
    NoReport,
    NotFound,
    NotSignedIn,
    Refused,
    ServerDown,
    SourceError,
    Unauthorised,
)
from tactful_ui.report import Count, Estimate, Report, Statistics, parse_time

logger = logging.getLogger(__name__)

DEFAULT_URL = "http://127.0.0.1:8420"

_TIMEOUT_SECONDS = 5.0
_UNKNOWN_KEY = 401
_PATIENT_SECONDS = 60.0  # a promotion asks the registry, a read-out reads the log
_NOT_FOUND = 404
_REFUSALS = (400, 409, 422)
_UNAVAILABLE = 503

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """Address of the server and the API key; the representation leaves out the key."""

    url: str = DEFAULT_URL
    api_key: str | None = field(default=None, repr=False)
    ca: str = ""  # file of the authority of the server; empty for the usual ones
    certificate: str = ""  # file of a certificate and its key, for a server that asks for one

    @classmethod
    def load(
        cls, secrets: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> Settings:
        """Read ``TACTFUL_URL``, ``…_API_KEY``, ``…_CA`` and ``…_CERTIFICATE``.

        The environment comes before the secrets file.
        """
        variables = os.environ if environment is None else environment

        def value(name: str) -> str:
            values = (str(place.get(name) or "").strip() for place in (variables, secrets))
            return next(filter(None, values), "")

        url = value("TACTFUL_URL").rstrip("/") or DEFAULT_URL
        with contextlib.suppress(ValueError):  # `connect` reports an address that is none
            url = with_scheme(url)
        key = value("TACTFUL_API_KEY") or None
        return cls(url, key, ca=value("TACTFUL_CA"), certificate=value("TACTFUL_CERTIFICATE"))

    def tls(self) -> ssl.SSLContext | None:
        """Return the certificates of TLS to trust and to show; None for the usual authorities."""
        named = (Path(name) if name else None for name in (self.ca, self.certificate))
        return tls_context(*named)


@dataclass(frozen=True)
class Health:
    """State of the server."""

    ready: bool  # whether it takes traffic
    version: str = ""  # its version; empty if unknown
    # Results of its checks, each ``ok`` or a description of the failure
    checks: Mapping[str, str] = field(default_factory=dict)
    detail: str = ""  # reason for not being ready; empty otherwise


class ReportSource:
    """Data for the pages, by the platform's own client.

    It tries once with a short timeout, because an open page refreshes by itself; changes, and what
    the server computes, have a long one. Every method raises a `SourceError` if it has no answer.
    """

    def __init__(self, settings: Settings) -> None:
        """Create the client without sending a request."""
        url, key, tls = settings.url, settings.api_key, settings.tls()
        self._client = Client(url, key, timeout=_TIMEOUT_SECONDS, retries=0, tls=tls)
        self._patient = Client(url, key, timeout=_PATIENT_SECONDS, retries=0, tls=tls)

    def run(self, request: Request[T], *, patient: bool = False) -> T:
        """Send a request of `tactful.client.routes`; `patient`: it may take a minute."""
        client = self._patient if patient or request.method != "GET" else self._client
        return _call(lambda: client.run(request))

    def follow(self) -> Iterator[LiveMessage]:
        """Yield what comes at the server, once a second, until it ends the stream."""
        try:
            yield from self._client.follow()
        except Exception as error:
            raise _translated(error) from error

    def health(self) -> Health:
        """Return readiness, version and checks of the server."""
        try:
            health = self._client.health()
        except Exception as error:
            if _status(error) == _UNAVAILABLE:
                return Health(ready=False, detail=str(error))
            raise _translated(error) from error
        return Health(health.status == "ok", health.version, health.checks)

    def report_names(self) -> list[str]:
        """Return the names of the reports, in order."""
        return [about.name for about in _call(self._client.reports)]

    def report(self, name: str) -> Report:
        """Return one report, finished or not."""
        try:
            return Report.parse(_call(lambda: self._client.report(name)))
        except NotFound as error:
            raise NoReport(str(error)) from error

    def statistic_titles(self) -> Mapping[str, str]:
        """Return the titles of the published statistics by name, in order."""
        published = _call(self._client.statistics_list)
        return {about.name: about.title or about.name for about in published}

    def statistic(self, name: str, since: datetime, until: datetime) -> Statistics:
        """Return the released counts of the panes that start in ``[since, until)``."""
        page = _call(
            lambda: self._client.statistics(
                name, since=_milliseconds(since), until=_milliseconds(until)
            )
        )
        counts = (
            Count(start, cell.key, Estimate(cell.value, cell.low, cell.high))
            for cell in page.cells
            if (start := parse_time(cell.pane_start)) is not None
        )
        return Statistics(page.name, page.epsilon, page.cap, page.unit, None, tuple(counts))

    def models(self) -> Mapping[str, Any]:
        """Return the server's description of the models in use."""
        return _call(self._client.models)


def connect(settings: Settings) -> ReportSource:
    """Create the source; raise BadAnswer if the address is no URL."""
    try:
        return ReportSource(settings)
    except Exception as error:
        raise BadAnswer(str(error)) from error


def _call(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except Exception as error:
        raise _translated(error) from error


def _translated(error: Exception) -> SourceError:
    """Convert a client's error to a dashboard error and log the original."""
    logger.info("the server gave no answer: %s", error)
    if isinstance(error, SourceError):
        return error
    if isinstance(error, ConnectionError):
        return ServerDown(str(error))
    if isinstance(error, PermissionError):
        refused = NotSignedIn if _status(error) == _UNKNOWN_KEY else Unauthorised
        return refused(str(error))
    if _status(error) == _NOT_FOUND:
        return NotFound(str(error))
    return (Refused if _status(error) in _REFUSALS else BadAnswer)(str(error))


def _status(error: Exception) -> int | None:
    """Return the HTTP status of a client's error, or None without an answer."""
    return getattr(error, "status", None)


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
