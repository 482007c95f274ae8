"""Commands around on-device training: `tactful federated`.

It may import every other sub-package of `tactful`. Begin with `fleet`.
"""

from __future__ import annotations

import click

from tactful.util.lazy_commands import LazyCommand, LazyGroup

_HELP = {
    "calibrate": "Calibrate TRIGGERS to public histories, which the model was not trained on.",
    "serve": "Run private training over a SuperLink; a restart resumes the run in DIRECTORY.",
    "enrol": "Enrol devices: DIRECTORY of a server, REQUESTS written by `device` as request.json.",
    "enrol-pages": "Enrol web pages until stopped: one key for an account.",
    "device": "Take part in a run as one device until stopped; its data stay in DIRECTORY.",
    "evaluate": "Evaluate a model once, privately, on the devices of the server in DIRECTORY.",
    "intent": "Print the intent that the device in DIRECTORY would send with a request.",
    "plan": "Compute privacy, noise, expected loss and costs of a training run before it starts.",
    "status": "Print rounds, privacy loss and state of the run in DIRECTORY, or of --url.",
    "simulate": "Train privately on simulated shoppers; a restart resumes the run in DIRECTORY.",
    "superlink": "Lead the runs that `flwr run` submits of the projects --app, refuse all others.",
}
_MODULES = {"serve": "fleet", "device": "fleet"}


def _command(name: str, text: str) -> LazyCommand:
    base = name.replace("-", "_")
    return LazyCommand(f"tactful.cli.federated.{_MODULES.get(name, base)}:{base}_command", text)


_COMMANDS = {name: _command(name, text) for name, text in _HELP.items()}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def federated() -> None:
    """Plan, simulate and run private training on devices."""
