"""An installation in a directory: run its server and commands, and read everything from it.

Only commands, HTTP and settings are used, so that it does not matter where modules lie.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).resolve().parent
CONFIGURATION = HERE / "configuration"
PREFIX = "stored"
"""Beginning of the keys in Redis."""
_KEY = ("created_at", "id", "note", "revoked_at", "scopes")  # not its last use, which is today

DAY = 86_400_000
BEGIN = 1_700_006_400_000
END = BEGIN + 40 * DAY
"""Time of the recommendations and features that are compared, epoch milliseconds."""

ERASED = "person-09"
PEOPLE = [f"person-{number:02d}" for number in range(12) if number != 9]
EXPORTED = "person-03"
_LEFT_OUT = frozenset(
    {
        # Drawn or measured for the request.
        *("recommendation_id", "position", "took_ms", "made_at", "exported_at"),
        # Depends on what is done in the background meanwhile.
        *("vectors", "indexed_items", "waiting_actions"),
        # Prose.
        *("in_words", "method", "unit", "note", "notes"),
    }
)


class Installation:
    """A directory with settings, the data directory `data` and the environment of its commands."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            **(environment or {}),
        }

    @classmethod
    def create(cls, folder: Path, environment: Mapping[str, str] | None = None) -> Installation:
        """Create a directory with the settings and no data."""
        shutil.copytree(CONFIGURATION, folder)
        (folder / "reports").mkdir()
        return cls(folder, environment)

    def command(self, *arguments: object) -> str:
        """Run a command of the product in the directory; return its standard output."""
        run = subprocess.run(
            [sys.executable, "-m", "tactful", *map(str, arguments)],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"{arguments}: {run.stdout}{run.stderr}"
        return run.stdout

    def command_json(self, *arguments: object) -> Any:
        """Run a command with `--json`; return the parsed lines, or the document."""
        text = self.command(*arguments, "--json")
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return [json.loads(line) for line in text.splitlines()]

    @contextlib.contextmanager
    def serving(self, key: str, **settings: str) -> Iterator[httpx.Client]:
        """Run `tactful serve`; yield a client with an API key; stop the server at the end.

        Args:
            key: API key.
            settings: environment variables of the server.
        """
        command = [sys.executable, "-m", "tactful", "serve", "--json"]
        log = self.folder / "server.log"
        with log.open("ab") as errors:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**self._environment, **settings},
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, log.read_text(errors="replace")
            headers = {"Authorization": f"Bearer {key}"}
            url = json.loads(line)["url"]
            with httpx.Client(base_url=url, headers=headers, timeout=60, verify=False) as http:
                wait_until(lambda: http.get("/readyz").status_code == 200)
                yield http
        finally:
            process.terminate()
            process.stdout.close()
            code = process.wait(60)
        assert code == 0, log.read_text(errors="replace")


def unpack(folder: Path) -> Installation:
    """Unpack the stored installation, with its backup beside the data, into a new directory."""
    installation = Installation.create(folder, {"TACTFUL_ONLINE__KIND": "engine"})
    with tarfile.open(HERE / "installation.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return installation


def restore(installation: Installation, folder: Path) -> Installation:
    """Restore the backup of an installation into a new directory."""
    # As when it was recorded: anonymous lists count from one person on.
    environment = {"TACTFUL_ONLINE__KIND": "engine", "TACTFUL_RECOMMEND__ANONYMOUS_MINIMUM": "1"}
    restored = Installation.create(folder, environment)
    restored.data.mkdir()
    kept = installation.folder
    restored.command(
        *("restore", kept / "backup", "--tombstones", kept / "tombstones", "--accept-unsigned")
    )
    return restored


@contextlib.contextmanager
def receiving_actions() -> Iterator[tuple[str, dict[str, Any]]]:
    """Run a web server that receives actions; yield its address and the actions by event id."""
    actions: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            action = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            actions[action["event_id"]] = action
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/actions", actions
        server.shutdown()


def wait_until(holds: Any, seconds: float = 60.0) -> None:
    """Poll a condition until it holds.

    Raises:
        AssertionError: if it does not hold in time.
    """
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "the condition did not hold in time"
        time.sleep(0.02)


def get(http: httpx.Client, path: str, **query: object) -> Any:
    """GET a path; return the answer as `stable` leaves it."""
    answer = http.get(path, params={name: str(value) for name, value in query.items()})
    assert answer.status_code == 200, f"{path}: {answer.text}"
    return stable(answer.json())


def stable(answer: Any) -> Any:
    """Leave out what depends on the request's time or is prose; round to six significant digits."""
    if isinstance(answer, dict):
        return {
            name: value is not None if name == "fallback" else stable(value)
            for name, value in answer.items()
            if name not in _LEFT_OUT
        }
    if isinstance(answer, list):
        return [stable(value) for value in answer]
    if isinstance(answer, float) and not answer.is_integer():
        return float(f"{answer:.6g}")
    return answer


def cells(http: httpx.Client, name: str) -> list[Any]:
    """Return the released cells of a statistic, of all pages."""
    page = get(http, f"/v1/statistics/{name}", limit=1000)
    found: list[Any] = page["cells"]
    while page["next_cursor"]:
        page = get(http, f"/v1/statistics/{name}", limit=1000, cursor=page["next_cursor"])
        found += page["cells"]
    return found


def recommend(http: httpx.Client, **request: object) -> Any:
    """Return the answer to a request for recommendations at the time `END`."""
    answer = http.post("/v1/recommend", json={"timestamp": END, "count": 10, **request})
    assert answer.status_code == 200, answer.text
    return answer.json()


def read_all(
    installation: Installation,
    made: Mapping[str, Any],
    complete: Callable[[dict[str, Any]], bool],
) -> Any:
    """Run the server of an installation and read everything that is compared.

    Args:
        installation: what is read.
        made: ids and keys that were drawn when the installation was made.
        complete: whether the received actions, by event id, are all there are.
    """
    with receiving_actions() as (url, actions):
        with installation.serving(made["key"], TACTFUL_ACTIONS__WEBHOOK_URL=url) as http:
            answers = _read_all(installation, http, made)
            wait_until(lambda: complete(actions), 150)
        return {
            **answers,
            "actions": sorted(actions.values(), key=lambda action: action["event_id"]),
        }


def _read_all(installation: Installation, http: httpx.Client, made: Mapping[str, Any]) -> Any:
    """The parts of `read_all` that a client and commands read."""
    names: Sequence[str] = [row["name"] for row in get(http, "/v1/statistics")["statistics"]]
    command = installation.command_json
    return {
        "features": {
            person: get(http, f"/v1/users/{person}/features", at=END)["features"]
            for person in PEOPLE
        },
        "consent": {person: get(http, f"/v1/users/{person}/consent") for person in PEOPLE},
        "export": get(http, f"/v1/users/{EXPORTED}/export"),
        "statistics": get(http, "/v1/statistics"),
        "cells": {name: cells(http, name) for name in names},
        "ledger": stable(command("privacy", "ledger", "--day", "2023-12-20")),
        "models": get(http, "/v1/models"),
        "model log": get(http, "/v1/models/log"),
        "rollouts": get(http, "/v1/experiments"),
        "rollout": get(http, "/v1/experiments/cheaper-first"),
        "keys": [{name: key[name] for name in _KEY} for key in command("keys", "list")],
        "erasure": get(http, f"/v1/erasures/{made['receipt']}"),
        "explanation": get(http, f"/v1/explain/{made['recommendation_id']}"),
        "dead letters": stable(command("rules", "letters")),
        "late events": stable(command("rules", "letters", "--late")),
        "recommendations": [
            # In a visit without items: when they were recorded, requests without an id had none.
            *(stable(recommend(http, user_id=person, session_id="new")) for person in PEOPLE),
            stable(recommend(http, device_id="device-linked", session_id="new")),
            stable(recommend(http, category="kind-3")),
            stable(recommend(http)),
        ],
        "sent again": stable(http.post("/v1/events", json=made["sent"]).json()),
        "status of an erased person": http.get(f"/v1/users/{ERASED}/features").status_code,
        "status of a revoked key": http.get(
            "/v1/statistics", headers={"Authorization": f"Bearer {made['revoked_key']}"}
        ).status_code,
    }
