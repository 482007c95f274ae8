"""Devices for strategies of Flower and of your own, in the clear and without noise.

A strategy (`flwr.serverapp.strategy`) averages arrays that nodes return. The app here answers in
its form: the weights after training as one array, and equal weights of devices, as in our own
rounds. An update is clipped as always, but **no privacy guarantee holds**: a strategy reads single
updates, and few of them bound the effect of one device. A private run has the sum of
`PrivateTraining`, and the optimisers of `tactful federated serve --optimizer`; a secret sum shows a
strategy nothing to choose from, so the private tiers take none.

    training request     arrays; config: server-round, and proximal-mu of FedProx
    training reply       arrays; metrics: num-examples (1)
    evaluation request   refused: a strategy scores weights on the server (`evaluate_fn`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from tactful_federated.core.evaluation_answer import EXACT_REFUSED
from tactful_federated.device.trainer import Device
from tactful_federated.errors import HistoryError, WeightsError, extra
from tactful_federated.model.vectors import Vector
from tactful_federated.transport.flower_clear import only_kind_of_errors

with extra():
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

_ARRAYS, _CONFIG, _METRICS = "arrays", "config", "metrics"


def arrays_app(device_of: Callable[[Context], Device]) -> ClientApp:
    """Return a Flower ClientApp of the device that `device_of` returns for a context.

    Errors reach the server as their kind alone; the log of the node has the rest.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        with only_kind_of_errors():
            device, weights = device_of(context), _weights(message)
            config = cast(Mapping[str, Any], message.content[_CONFIG])
            if "proximal-mu" in config:
                device.settings = replace(device.settings, proximal=float(config["proximal-mu"]))
            trained = weights + device.train(weights, int(config["server-round"]))
        metrics = MetricRecord({"num-examples": 1})
        content = RecordDict({_ARRAYS: as_arrays(trained), _METRICS: metrics})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        with only_kind_of_errors():
            raise HistoryError(EXACT_REFUSED)

    return app


def as_arrays(weights: Vector) -> ArrayRecord:
    """Return the record of a weight vector: one array, so one object on the network."""
    return ArrayRecord([weights])


def as_weights(arrays: ArrayRecord) -> Vector:
    """Return the weight vector of a record.

    Raises:
        WeightsError: It holds another number of arrays.
    """
    found = arrays.to_numpy_ndarrays()
    if len(found) != 1:
        raise WeightsError(f"a message holds {len(found)} arrays, not one weight vector")
    weights: Vector = found[0].astype("float32", copy=False)
    return weights


def _weights(message: Message) -> Vector:
    return as_weights(cast(ArrayRecord, message.content[_ARRAYS]))
