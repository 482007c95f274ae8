"""Log lines: one JSON object each where a machine reads them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tactful.config.logging import JsonFormatter, TextFormatter, configure
from tactful.config.server import LoggingSettings
from tactful.metadata.store import open_metadata


def record(message: str, *values: object) -> logging.LogRecord:
    try:
        raise ValueError("no")
    except ValueError:
        made = logging.LogRecord(
            "tactful.x", logging.WARNING, "f.py", 1, message, values, sys.exc_info()
        )
    made.created = 0.25
    return made


def test_json_lines_are_whole_objects() -> None:
    line = JsonFormatter().format(record('two\nlines of %s and "%s"', "text", "é"))
    assert "\n" not in line
    said = json.loads(line)
    assert said["message"] == 'two\nlines of text and "é"'
    assert said["time"] == "1970-01-01T00:00:00.250+00:00"
    assert (said["level"], said["logger"]) == ("warning", "tactful.x")
    assert "ValueError: no" in said["traceback"]


def test_text_lines_begin_with_time_and_level() -> None:
    first, *rest = TextFormatter().format(record("hello")).splitlines()
    assert first == "1970-01-01T00:00:00.250+00:00 WARNING tactful.x: hello"
    assert rest[-1] == "ValueError: no"


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Restore the logging configuration after the test."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield
    root.level, root.handlers[:] = before


@pytest.fixture
def prepared_metadata() -> None:
    """A first start goes through all upgrades."""


def test_first_start(own_logging: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(LoggingSettings(level="info"))
    open_metadata(tmp_path / "metadata.db").close()
    (line,) = capsys.readouterr().err.splitlines()
    assert "tactful.metadata.store: the metadata was upgraded from schema none to" in line
