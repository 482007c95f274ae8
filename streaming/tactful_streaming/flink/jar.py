"""The jar that runs our SQL on Flink, compiled from the Java sources in ``flink/src``."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from tactful_privacy.durable_files import replace_file
from tactful_streaming.errors import FlinkError

FLINK_VERSION: Final = "2.0.2"
"""Version of Flink that the runner is compiled for and tested with."""

RUNNER_CLASS: Final = "tactful.flink.ScriptRunner"
"""Main class of the runner."""

_SOURCES = Path(__file__).parents[2] / "flink" / "src"


def build_runner(flink_home: Path, *, sources: Path = _SOURCES) -> Path:
    """Compile the runner, unless these sources were compiled before; return the jar.

    `flink_home` has Flink's jars in ``lib/``, as ``scripts/flink fetch`` makes it; the jar is
    stored there.

    Raises:
        FlinkError: if there are no sources, no Flink or no JDK, or they do not compile.
    """
    files = sorted(sources.rglob("*.java"))
    if not files:
        raise FlinkError(
            f"{sources}: no Java sources: the runner is built in a checkout of the repository; "
            "elsewhere name a jar that was built there"
        )
    if not any((flink_home / "lib").glob("flink-dist-*.jar")):
        raise FlinkError(f"{flink_home}: no Flink in lib/: scripts/flink fetch puts it there")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(sources)}\0".encode() + file.read_bytes() + b"\0")
    jar = flink_home / f"tactful-flink-{digest.hexdigest()[:16]}.jar"
    if jar.exists():
        return jar
    javac = shutil.which("javac")
    if javac is None:
        raise FlinkError("no javac on PATH: install a JDK 17 or 21 to build the runner")
    with tempfile.TemporaryDirectory(dir=flink_home) as folder:
        classes, built = Path(folder, "classes"), Path(folder, "built.jar")
        compiled = subprocess.run(
            [javac, "--release", "17", "-cp", str(flink_home / "lib" / "*"), "-d", str(classes)]
            + [str(file) for file in files],
            capture_output=True,
            text=True,
            check=False,
        )
        if compiled.returncode:
            raise FlinkError(f"the runner does not compile:\n{compiled.stderr.strip()}")
        _write_jar(classes, built)
        replace_file(jar, built.read_bytes())
    return jar


def _write_jar(classes: Path, jar: Path) -> None:
    manifest = f"Manifest-Version: 1.0\r\nMain-Class: {RUNNER_CLASS}\r\n\r\n"
    with zipfile.ZipFile(jar, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("META-INF/MANIFEST.MF", manifest)
        for file in sorted(classes.rglob("*.class")):
            archive.write(file, file.relative_to(classes).as_posix())
