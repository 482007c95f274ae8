"""Progress of imports, kept outside of the directory of the file.

``$XDG_STATE_HOME/tactful/imports`` (``~/.local/state/tactful/imports`` by default) has a record for
each file, server and kind: how far the file was sent, the hash of that part, and the plan, so that
a longer file is understood as before.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tactful.client import Kind
from tactful.errors import DatasetError
from tactful.imports.formats.rows import Place
from tactful.imports.options import ImportOptions
from tactful.imports.plan import Plan
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of one file at one server.

    Attributes:
        file: path of the file.
        url: address of the server.
        kind: kind of the elements.
        options: options of the run.
        plan: plan of the run.
        place: place up to which the server has all elements.
        done: whether the file was sent to its end.
        sent_at: time of the record in epoch milliseconds.
        import_id: id of the import at the server; empty for none.
    """

    file: str
    url: str
    kind: Kind
    options: ImportOptions
    plan: Plan
    place: Place
    done: bool = False
    sent_at: int = 0
    import_id: str = ""


class ProgressStore:
    """Records of imports in a directory."""

    def __init__(self, directory: Path | None) -> None:
        """Keep records in a directory; in none without one."""
        self._directory = directory

    def problem(self) -> str | None:
        """Create the directory; return the reason if nothing can be written there."""
        if self._directory is None:
            return "there is no home directory"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._directory):
                pass
        except OSError as error:
            self._directory = None
            return str(error)
        return None

    def load(self, file: Path, url: str, kind: Kind) -> Record | None:
        """Return the record of a file, or None.

        Raises:
            DatasetError: if it is damaged.
        """
        if self._directory is None:
            return None
        path = self._directory / _name(file, url, kind)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except DECODE_ERRORS as error:
            raise DatasetError(
                f"{path}: the progress of {file} is damaged; begin anew with --restart"
            ) from error

    def save(self, record: Record) -> None:
        """Replace the record of a file."""
        if self._directory is not None:
            name = _name(Path(record.file), record.url, record.kind)
            replace_file(self._directory / name, msgspec.json.encode(record), private=True)


def state_directory(environ: Mapping[str, str], home: Path | None) -> Path | None:
    """Return the directory of the records; None without a home directory."""
    given = Path(environ.get("XDG_STATE_HOME", ""))
    if given.is_absolute():
        return given / "tactful" / "imports"
    return None if home is None else home / ".local" / "state" / "tactful" / "imports"


def _name(file: Path, url: str, kind: Kind) -> str:
    identity = "\n".join((str(file.resolve()), url.rstrip("/"), kind))
    return f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
