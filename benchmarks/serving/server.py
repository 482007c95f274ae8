"""A server of the product for benchmarks: the packaged parts, with a thousand candidates a request.

Usage: ``python -m benchmarks.serving.server DATA WORKERS``. It prints its address as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from benchmarks.serving.build import build
from tactful.config.engine import EngineSettings
from tactful.config.server import ServerSettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.http.routes import make_application
from tactful.http.uvicorn_server import listen, make_server, run
from tactful.server.platform import Platform
from tactful.workers.pool import run_pool


def settings(data: Path, workers: int) -> Settings:
    """Settings of a server on a data directory; a free port of this machine."""
    return Settings(
        server=ServerSettings(port=0, dev=True, workers=workers),
        storage=StorageSettings(data=data, reports=data / "reports", durability="process"),
        engine=EngineSettings(),
    )


def main(data: Path, workers: int) -> None:
    """Serve until a signal says stop."""
    chosen = settings(data, workers)
    with listen(chosen.server.host, 0) as listener:
        port = listener.getsockname()[1]

        def started() -> None:
            print(json.dumps({"port": port, "pid": os.getpid()}), flush=True)

        platform = Platform.open(chosen, build)
        if workers:
            run_pool(
                platform,
                listener,
                build="benchmarks.serving.build:build",
                count=workers,
                started=started,
            )
        else:
            server = make_server(make_application(platform), chosen.server)
            run(server, listener, started=started)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
