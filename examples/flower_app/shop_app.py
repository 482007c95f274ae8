"""Train the intent model by a strategy of Flower's, in the clear and without noise.

`flwr run examples/flower_app` simulates it, with `flwr[simulation]`. A node reads its visits from
the file `history` of its configuration, a JSON list of lists of categories; without one it has a
generated shopper. Nodes have `tactful-device` alone. A killed run goes on from `checkpoint`.
"""

from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp, strategy

from tactful_federated import Device, IntentPredictor, Vocabulary
from tactful_federated.core.checkpoint import load_arrays, save_arrays
from tactful_federated.device.command import read_history
from tactful_federated.device.flower_strategies import arrays_app, as_arrays, as_weights
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.tokens import windows

VOCABULARY = Vocabulary.from_catalogue(SAMPLE_CATALOGUE)
OPTIONS: dict[str, dict[str, Any]] = {
    "FedAvgM": {"server_momentum": 0.5},
    "FedProx": {"proximal_mu": 0.1},
    "FedAdam": {"eta": 0.01},
    "Krum": {"num_malicious_nodes": 1},
}


def device_of(context: Context) -> Device:
    """Return the device of a node."""
    node = int(context.node_config.get("partition-id", context.node_id))
    path = str(context.node_config.get("history", ""))
    visits = read_history(Path(path)) if path else sample_history(node)
    return Device(visits, VOCABULARY, seed=node)


client = arrays_app(device_of)
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Lead the rounds that are left, from the checkpoint if there is one."""
    train(grid, dict(context.run_config))


def train(grid: Grid, config: dict[str, Any]) -> np.ndarray:
    """Lead the rounds that are left and return the weights."""
    from tactful_federated.serving.rounds import initial_weights  # which nodes do not have

    path = Path(config["checkpoint"]) if config.get("checkpoint") else None
    saved = load_arrays(path) if path else None
    done = int(saved["round"]) if saved else 0
    weights = saved["weights"] if saved else initial_weights(VOCABULARY)
    public = windows(VOCABULARY.sequence(sample_history(10_000)))

    def after(number: int, arrays: ArrayRecord) -> MetricRecord:
        """Keep the weights and score them on the server, on data that are public."""
        latest = as_weights(arrays)
        if path and number:
            save_arrays(path, {"round": np.array(done + number), "weights": latest})
        return MetricRecord({"loss": IntentPredictor(latest, VOCABULARY.size).loss(public)})

    if (left := int(config["rounds"]) - done) > 0:
        name = str(config["strategy"])
        # Devices refuse to count their right answers: `after` scores the weights instead.
        chosen = getattr(strategy, name)(fraction_evaluate=0.0, **OPTIONS.get(name, {}))
        result = chosen.start(grid, as_arrays(weights), left, evaluate_fn=after)
        weights = as_weights(result.arrays)
    return weights
