"""Change detection for a file that another process replaces."""

import os
from pathlib import Path

from tactful.util.changed_file import ChangedFile


def test_a_file_is_read_once_for_each_change(tmp_path: Path) -> None:
    path = tmp_path / "served"
    file = ChangedFile(path)
    assert not file.changed()
    path.write_bytes(b"a")
    assert file.changed()
    assert not file.changed()
    status = path.stat()
    replacement = tmp_path / "next"
    replacement.write_bytes(b"b")  # the same size, at the same time, as another file
    os.utime(replacement, ns=(status.st_atime_ns, status.st_mtime_ns))
    replacement.replace(path)
    assert file.changed()
    path.unlink()
    assert not file.changed()
