"""A server of the product for benchmarks: the packaged parts, with a thousand candidates a request.

Usage: ``python -m benchmarks._serving_server DATA WORKERS``. It prints its address as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tactful.candidates import Quotas
from tactful.config import EngineSettings, ServerSettings, Settings, StorageSettings
from tactful.crew import run_crew
from tactful.http import make_application
from tactful.recommender import RANKING_EXPERIMENT, Recommender
from tactful.server import listen, make_server, run
from tactful.service import Platform
from tactful_bandits import Arm, Experiment

CANDIDATES = 1_000


def settings(data: Path, workers: int) -> Settings:
    """Settings of a server on a data directory; a free port of this machine."""
    return Settings(
        server=ServerSettings(port=0, dev=True, workers=workers),
        storage=StorageSettings(data=data, reports=data / "reports", durability="process"),
        engine=EngineSettings(),
    )


def build(*, engine: Any, settings: Settings, **_: Any) -> Recommender:
    """The product's recommender, all of whose lists are ranked by the model from 1,000 items."""
    arms = (Arm("learned", 0.5), Arm("the-same", 0.5))
    return Recommender(
        engine,
        models=settings.models,
        definitions=engine.definitions.fingerprint,
        experiment=Experiment(RANKING_EXPERIMENT, arms),
        quotas=Quotas(vectors=CANDIDATES, total=CANDIDATES),
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
            run_crew(
                platform,
                listener,
                build="benchmarks._serving_server:build",
                count=workers,
                started=started,
            )
        else:
            server = make_server(make_application(platform), chosen.server)
            run(server, listener, started=started)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
