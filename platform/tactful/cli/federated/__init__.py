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
    "device": "Take part in a run as one device until stopped; its data stay in DIRECTORY.",
    "evaluate": "Evaluate a model once, privately, on the devices of the server in DIRECTORY.",
    "intent": "Print the intent that the device in DIRECTORY would send with a request.",
    "plan": "Compute privacy, noise and expected loss of a training run before it starts.",
    "simulate": "Train privately on simulated shoppers; a restart resumes the run in DIRECTORY.",
}
_MODULES = {"serve": "fleet", "enrol": "fleet", "device": "fleet"}
_COMMANDS = {
    name: LazyCommand(f"tactful.cli.federated.{_MODULES.get(name, name)}:{name}_command", text)
    for name, text in _HELP.items()
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def federated() -> None:
    """Plan, simulate and run private training on devices."""
