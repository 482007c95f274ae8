"""Strategies of Flower's and of one's own lead our devices, by the template project."""

import importlib.util
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import strategy

from tactful_federated.device.flower_strategies import arrays_app, as_arrays, as_weights
from tactful_federated.device.trainer import Device
from tactful_federated.errors import WeightsError
from tactful_federated.model.sample_data import sample_history
from tactful_federated.model.vectors import Vector
from tactful_federated.serving.rounds import initial_weights
from tactful_federated.transport.flower_clear import LocalGrid

PROJECT = Path(__file__).resolve().parents[3] / "examples" / "flower_app"
NODES = 5


def load_shop() -> Any:
    """The module of the template project."""
    spec = importlib.util.spec_from_file_location("shop_app", PROJECT / "shop_app.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shop() -> Any:
    return load_shop()


def train(shop: Any, **config: Any) -> Vector:
    weights: Vector = shop.train(LocalGrid(shop.client, NODES), config)
    return weights


@pytest.mark.parametrize(
    "name",
    ["FedAvg", "FedAvgM", "FedProx", "FedAdam", "FedYogi", "FedMedian", "Krum", "FedTrimmedAvg"],
)
def test_strategies_of_flower_lower_the_loss_on_public_data(shop: Any, name: str) -> None:
    before = initial_weights(shop.VOCABULARY)
    public = shop.windows(shop.VOCABULARY.sequence(sample_history(10_000)))

    def loss(weights: Vector) -> float:
        return float(shop.IntentPredictor(weights, shop.VOCABULARY.size).loss(public))

    assert loss(train(shop, strategy=name, rounds=2)) < loss(before)


def test_the_average_is_that_of_the_devices(shop: Any) -> None:
    weights = initial_weights(shop.VOCABULARY)
    devices = [Device(sample_history(n), shop.VOCABULARY, seed=n) for n in range(NODES)]
    expected = np.mean([weights + device.train(weights, 1) for device in devices], axis=0)
    assert np.abs(train(shop, strategy="FedAvg", rounds=1) - expected).max() < 1e-6
    kept = np.median([weights + device.train(weights, 1) for device in devices], axis=0)
    assert np.abs(train(shop, strategy="FedMedian", rounds=1) - kept).max() < 1e-6


def test_a_killed_run_goes_on_from_its_checkpoint(shop: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "run.npz")
    first = train(shop, strategy="FedAvg", rounds=1, checkpoint=path)
    with np.load(path) as saved:
        assert int(saved["round"]) == 1 and np.array_equal(saved["weights"], first)
    second = train(shop, strategy="FedAvg", rounds=2, checkpoint=path)
    assert not np.array_equal(first, second)
    assert np.array_equal(train(shop, strategy="FedAvg", rounds=2, checkpoint=path), second)


def test_a_strategy_of_ones_own_plugs_in(shop: Any) -> None:
    class Halved(strategy.FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            assert arrays is not None
            return as_arrays(as_weights(arrays) * np.float32(0.5)), metrics

    weights = initial_weights(shop.VOCABULARY)
    grid = LocalGrid(arrays_app(shop.device_of), NODES)
    result = Halved(fraction_evaluate=0.0).start(grid, as_arrays(weights), 1)
    whole = strategy.FedAvg(fraction_evaluate=0.0).start(grid, as_arrays(weights), 1)
    assert np.allclose(as_weights(result.arrays) * 2, as_weights(whole.arrays), atol=1e-6)


def test_no_device_counts_its_right_answers_for_a_strategy(shop: Any) -> None:
    """A strategy of Flower's asks by default: the run goes on, and it learns nothing."""
    weights = initial_weights(shop.VOCABULARY)
    result = strategy.FedAvg().start(LocalGrid(shop.client, NODES), as_arrays(weights), 1)
    assert not np.array_equal(as_weights(result.arrays), weights)
    assert not any(result.evaluate_metrics_clientapp.values())


def test_errors_of_a_node_reach_the_server_as_their_kind_alone(shop: Any, tmp_path: Path) -> None:
    (tmp_path / "visits.json").write_text('[["bread", 7]]')
    context = Context(1, 1, {"history": str(tmp_path / "visits.json")}, RecordDict(), {})
    arrays = as_arrays(initial_weights(shop.VOCABULARY))
    for kind in ("train", "evaluate"):
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1})})
        message = Message(content, dst_node_id=1, message_type=kind)
        message.metadata.__dict__["_message_id"] = "1"
        with pytest.raises(RuntimeError, match=r"^HistoryError$"):
            shop.client(message, context)


def test_other_arrays_are_refused() -> None:
    two = as_arrays(np.zeros(1, dtype=np.float32))
    two["more"] = two[next(iter(two))]
    with pytest.raises(WeightsError, match="2 arrays"):
        as_weights(two)


def test_the_project_is_one_that_flower_builds() -> None:
    app = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]["flwr"]["app"]
    assert app["components"] == {"serverapp": "shop_app:server", "clientapp": "shop_app:client"}
    assert (PROJECT / "LICENSE").read_bytes() == (PROJECT.parents[1] / "LICENSE").read_bytes()
