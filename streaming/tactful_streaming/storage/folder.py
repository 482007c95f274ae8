"""Objects as files of a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import uuid4

from tactful_privacy.durable_files import sync
from tactful_streaming.errors import ObjectExistsError, ObjectMissingError, ObjectStoreError
from tactful_streaming.storage.objects import StoredObject

_DRAFT = ".draft"  # suffix of a file that is being written


class FolderObjects:
    """An `ObjectStore` in a folder; its files are readable by their owner only."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which the first object creates."""
        self._folder = folder

    @property
    def place(self) -> str:
        """URL of the folder."""
        return self._folder.absolute().as_uri()

    def put(self, name: str, content: bytes, *, new: bool = False) -> None:
        """Write a file beside its place, force it to disk, and link or move it there."""
        path = self._folder / name
        draft = path.with_name(f".{uuid4().hex}{_DRAFT}")
        with self._explained(name):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                if new:
                    path.hardlink_to(draft)
                else:
                    draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
            sync(path.parent)

    def get(self, name: str) -> bytes:
        """Read a file."""
        with self._explained(name):
            return (self._folder / name).read_bytes()

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the files in a folder, sorted by name."""
        with self._explained(prefix):
            for path in sorted((self._folder / prefix).rglob("*")):
                with contextlib.suppress(FileNotFoundError):
                    about = path.stat()
                    if path.is_file():
                        name = path.relative_to(self._folder).as_posix()
                        yield StoredObject(name, about.st_size, about.st_mtime)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, and the folders that become empty."""
        for name in names:
            path = self._folder / name
            with self._explained(name):
                path.unlink(missing_ok=True)
                for parent in path.relative_to(self._folder).parents:
                    with contextlib.suppress(OSError):  # not empty
                        (self._folder / parent).rmdir()

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileExistsError as error:
            raise ObjectExistsError(f"{self.place}/{name} exists already") from error
        except FileNotFoundError as error:
            raise ObjectMissingError(f"{self.place}/{name} does not exist") from error
        except OSError as error:
            raise ObjectStoreError(f"{self.place}/{name}: cannot be used: {error}") from error
