"""``tactful federated``: the model that learns on devices."""

from __future__ import annotations

import click

from tactful.util.lazy_commands import LazyCommand, LazyGroup

_COMMANDS = {
    "serve": LazyCommand(
        "tactful.cli.federated.fleet:serve_command",
        "Run private training over a SuperLink; a restart resumes the run in DIRECTORY.",
    ),
    "enrol": LazyCommand(
        "tactful.cli.federated.fleet:enrol_command",
        "Enrol devices: DIRECTORY of the server, REQUESTS written by `device` as request.json.",
    ),
    "device": LazyCommand(
        "tactful.cli.federated.fleet:device_command",
        "Take part in a run as one device until stopped; its data stay in DIRECTORY.",
    ),
    "evaluate": LazyCommand(
        "tactful.cli.federated.evaluate:evaluate_command",
        "Evaluate a model once, privately, on the devices of the server in DIRECTORY.",
    ),
    "intent": LazyCommand(
        "tactful.cli.federated.intent:intent_command",
        "Print the intent that the device in DIRECTORY would send with a request.",
    ),
    "plan": LazyCommand(
        "tactful.cli.federated.plan:plan_command",
        "Compute privacy, noise and expected loss of a training run before it starts.",
    ),
    "simulate": LazyCommand(
        "tactful.cli.federated.simulate:simulate_command",
        "Train privately on simulated shoppers; a restart resumes the run in DIRECTORY.",
    ),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def federated() -> None:
    """Plan, simulate and run private training on devices."""
