"""The bundle that Flower requires for a run: it imports what is installed, and leads no round.

Its server side refuses to run, since rounds are led by the process that started the SuperLink. Its
client side is one import of the installed package, for stock SuperNodes, which fetch bundles; the
client of `tactful-device` never does. The same version of Flower builds the same bytes.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Final

from tactful_federated.errors import extra

with extra():
    from flwr.cli.build import build_fab_from_files

RUN_KEY: Final = "run"
"""Key of the run's name in the configuration of a run."""

_PROJECT = f"""
[project]
name = "tactful-rounds"
version = "1.0.0"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.42.0"]
[tool.flwr.app]
publisher = "tactful"
fab-format-version = 1
flwr-version-target = "1.42.0"
fab-include = ["*.py", "LICENSE"]
[tool.flwr.app.components]
serverapp = "rounds:app"
clientapp = "node:app"
[tool.flwr.app.config]
{RUN_KEY} = ""
"""
_FILES: Final = {
    "pyproject.toml": _PROJECT,
    "rounds.py": 'raise SystemExit("tactful federated serve runs the rounds; this does not")\n',
    "node.py": "from tactful_federated.device.stock_node import app as app\n",
    "LICENSE": "Apache-2.0\n",
}


@cache
def run_bundle() -> bytes:
    """Return the bundle of every run."""
    bundle, _ = build_fab_from_files({name: text.encode() for name, text in _FILES.items()})
    return bundle


def bundle_hash() -> str:
    """Return the SHA-256 of the bundle, in hexadecimal, as Flower names it."""
    return hashlib.sha256(run_bundle()).hexdigest()
