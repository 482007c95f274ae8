"""Errors of metrics."""

from __future__ import annotations

from tactful.errors import ConfigError
from tactful_streaming.errors import StreamingError


class MetricError(ConfigError):
    """A definition of a metric or an analysis is wrong; the message names file, line and key."""


class Mistake(StreamingError):
    """The same while a file is read."""
