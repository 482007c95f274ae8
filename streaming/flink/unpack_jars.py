"""Unpack the jars of the packages of `jars.txt`. Usage: unpack_jars.py PACKAGES LIB."""

from __future__ import annotations

import shutil
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath


def unpack(packages: Path, lib: Path) -> None:
    """Write the jars in a folder of downloaded packages to `lib`, a new folder.

    Only the connectors of the second package fit beside these jars: it bundles an older Flink.
    """
    lib.mkdir(parents=True)
    (flink,) = packages.glob("apache_flink_libraries-*.tar.gz")
    with tarfile.open(flink) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.parent.parts[1:] == ("deps", "lib") and path.suffix == ".jar":
                source = archive.extractfile(member)
                assert source is not None
                with source, lib.joinpath(path.name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    (connectors,) = packages.glob("shigawire_*.whl")
    named = Path(__file__).with_name("connectors.txt").read_text(encoding="utf-8").split()
    with zipfile.ZipFile(connectors) as archive:
        for name in named:
            lib.joinpath(f"{name}.jar").write_bytes(archive.read(f"pyflink/lib/{name}.jar"))


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
