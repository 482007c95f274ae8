"""``tactful federated``: the model that learns on devices."""

from __future__ import annotations

import click

from tactful.lazy_commands import LazyCommand, LazyGroup

_COMMANDS = {
    "serve": LazyCommand(
        "tactful.federated_fleet_cli:serve_command",
        "Lead private training over a SuperLink; started again, it goes on in DIRECTORY.",
    ),
    "enrol": LazyCommand(
        "tactful.federated_fleet_cli:enrol_command",
        "Let devices in: DIRECTORY is the server's, REQUESTS what `device` wrote as request.json.",
    ),
    "device": LazyCommand(
        "tactful.federated_fleet_cli:device_command",
        "Take part in a run as one device, until stopped; what it knows stays in DIRECTORY.",
    ),
    "evaluate": LazyCommand(
        "tactful.federated_evaluation_cli:evaluate_command",
        "Ask the devices of the server in DIRECTORY once how good a model is, privately.",
    ),
    "intent": LazyCommand(
        "tactful.federated_intent_cli:intent_command",
        "Print what the device in DIRECTORY would send along with a request for recommendations.",
    ),
    "plan": LazyCommand(
        "tactful.federated_plan_cli:plan_command",
        "Say what a private training run costs and loses, before it begins.",
    ),
    "simulate": LazyCommand(
        "tactful.federated_simulation_cli:simulate_command",
        "Train privately on generated shoppers; started again, it goes on in DIRECTORY.",
    ),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def federated() -> None:
    """Plan private training on devices, simulate it, and do it."""
