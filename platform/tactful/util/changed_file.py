"""Change detection for a file that another process replaces."""

from __future__ import annotations

from pathlib import Path


class ChangedFile:
    """A file that is read again when it was replaced or written."""

    def __init__(self, path: Path) -> None:
        """Follow a file, which need not exist yet."""
        self.path = path
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """Return whether it exists and is another one than at the last call."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return False
        seen = status.st_ino, status.st_mtime_ns, status.st_size
        if seen == self._seen:
            return False
        self._seen = seen
        return True
