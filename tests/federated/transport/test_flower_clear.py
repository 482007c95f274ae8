"""The Flower path: same numbers, lean messages, vanishing nodes."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from tests.federated.local_population import LocalPopulation
from tests.federated.private_run import small_plan

from tactful_federated.core import fedavg
from tactful_federated.core.compression import Encoding
from tactful_federated.device.trainer import Device
from tactful_federated.errors import HistoryError, SettingsError, WeightsError
from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import l2_norm
from tactful_federated.secagg.collectors import ClearCollector
from tactful_federated.simulation.flwr_app import client, device_of, server
from tactful_federated.transport.flower_clear import (
    FlowerPopulation,
    LocalGrid,
    client_app,
    training_app,
)

VOCABULARY = Vocabulary.from_catalogue(SAMPLE_CATALOGUE)
NODES = 6
SETTINGS = fedavg.RoundSettings(cohort=4, report_goal=4, minimum_reports=2)
START = fedavg.start(IntentModel(VOCABULARY.size, seed=1).vector())


def make_devices() -> dict[int, Device]:
    return {
        node: Device(sample_history(node), VOCABULARY, seed=node) for node in range(1, NODES + 1)
    }


def make_grid(**more: Any) -> LocalGrid:
    devices = make_devices()
    return LocalGrid(client_app(lambda context: devices[context.node_id]), NODES, **more)


def rounds_of(
    population: fedavg.Population, rounds: int, settings: fedavg.RoundSettings = SETTINGS
) -> tuple[fedavg.ServerState, list[fedavg.RoundResult]]:
    return fedavg.run_rounds(population, START, settings, rounds=rounds, seed=5)


def flower(grid: LocalGrid, **more: Any) -> FlowerPopulation:
    return FlowerPopulation(grid, VOCABULARY, **more)


def test_flower_and_direct_path_are_bit_equal() -> None:
    direct, direct_rounds = rounds_of(LocalPopulation(make_devices()), 3)
    flower_, flower_rounds = rounds_of(flower(make_grid()), 3)
    assert flower_rounds == direct_rounds
    for name in ("weights", "velocity", "average"):
        assert np.array_equal(getattr(flower_.model, name), getattr(direct.model, name))


def _update(values: np.ndarray, /, **forged: Any) -> ConfigRecord:
    """A device's record of an update, with some fields of another kind."""
    fields: dict[str, Any] = {"encoding": values.dtype.name, "scale": 1.0}
    return ConfigRecord({"values": values.tobytes(), **fields, **forged})


class Spy(LocalGrid):
    """Keeps every message that passes."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.requests: list[Message] = []
        self.answers: list[Message] = []

    def push_messages(self, messages: Any) -> list[str]:
        listed = list(messages)
        self.requests += listed
        return super().push_messages(listed)

    def pull_messages(self, message_ids: Any) -> list[Message]:
        answers = super().pull_messages(message_ids)
        self.answers += answers
        return answers


def leaks(content: RecordDict, size: int, history: np.ndarray) -> list[str]:
    """What in a device's message is more than one flat update or four counts."""
    found = []
    for key, record in content.items():
        if isinstance(record, ConfigRecord) and key == "update":
            if sorted(record) != ["encoding", "scale", "values"]:
                found.append(f"fields {sorted(record)}")
            if (record["encoding"], record["scale"]) != ("float32", 1.0):
                found.append("an encoding that was not asked for")
            values = np.frombuffer(cast(bytes, record["values"]), "<f4")
            if values.shape != (size,):
                found.append(f"an update of {values.shape}")
            runs = np.lib.stride_tricks.sliding_window_view(values, 8)
            if (runs == history[:8]).all(axis=1).any():
                found.append("the history inside the update")
        elif isinstance(record, MetricRecord) and key == "score":
            if sorted(record) != ["loss", "steps", "top1", "top5"]:
                found.append(f"metrics {sorted(record)}")
            if any(isinstance(value, list) for value in record.values()):
                found.append("a list among the counts")
        else:
            found.append(f"record {key} of {type(record).__name__}")
    return found


def test_messages_hold_an_update_or_counts_only() -> None:
    devices = make_devices()
    grid = Spy(client_app(lambda context: devices[context.node_id]), NODES)
    rounds_of(flower(grid), 2)
    assert len(grid.answers) == len(grid.requests) == 2 * (SETTINGS.cohort + NODES)
    size = START.model.weights.size
    for answer in grid.answers:
        history = VOCABULARY.sequence(sample_history(answer.metadata.src_node_id))
        assert leaks(answer.content, size, history) == []
    for request in grid.requests:
        assert list(request.content) == ["request"]
        fields = ["encoding", "round", "vocabulary", "weights"]
        assert sorted(request.content["request"]) == fields


@pytest.mark.parametrize(
    "leak", ["tokens in the update", "text", "list of counts", "a field", "a longer update"]
)
def test_the_scan_catches_a_planted_leak(leak: str) -> None:
    history = VOCABULARY.sequence(sample_history(1))
    update = np.zeros(START.model.weights.size, dtype=np.float32)
    record = _update(update)
    content = RecordDict({"update": record})
    assert leaks(content, len(update), history) == []
    if leak == "tokens in the update":
        hidden = update.copy()
        hidden[100:120] = history[:20]
        record["values"] = hidden.tobytes()
    elif leak == "text":
        content["log"] = ConfigRecord({"history": "milk, bread"})
    elif leak == "list of counts":
        content["score"] = MetricRecord({"steps": 1, "top1": 0, "top5": 0, "loss": [3.0, 4.0]})
    elif leak == "a field":
        record["more"] = history.astype(np.float32).tobytes()
    else:
        record["values"] = update.tobytes() + history.astype(np.float32).tobytes()
    assert leaks(content, len(update), history) != []


@pytest.mark.slow
@pytest.mark.parametrize(("encoding", "bytes_each"), [("float16", 2), ("int8", 1)])
def test_encoded_updates_are_smaller_and_train_alike(encoding: Encoding, bytes_each: int) -> None:
    plain, _ = rounds_of(flower(make_grid()), 3)
    devices = make_devices()
    grid = Spy(client_app(lambda context: devices[context.node_id]), NODES)
    state, results = rounds_of(flower(grid, encoding=encoding), 3)
    assert [(r.reports, r.refused) for r in results] == [(SETTINGS.report_goal, 0)] * 3
    moved = l2_norm(plain.model.weights - START.model.weights)
    assert 0 < l2_norm(state.model.weights - plain.model.weights) < 0.1 * moved
    size = START.model.weights.size
    for answer in grid.answers:
        if "update" in answer.content:
            update = cast(ConfigRecord, answer.content["update"])
            assert len(cast(bytes, update["values"])) == bytes_each * size
            assert update["encoding"] == encoding and type(update["scale"]) is float
    assert all(
        len(cast(bytes, cast(ConfigRecord, request.content["request"])["weights"])) == 2 * size
        for request in grid.requests
    )


ONES = np.ones(START.model.weights.size, np.int8)


def answering(update: Any) -> FlowerPopulation:
    """Two devices that answer with a record of their own."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({"update": update}), reply_to=message)

    return flower(LocalGrid(app, 2), encoding="int8")


@pytest.mark.parametrize(
    "forged",
    [
        ArrayRecord({"values": Array(ONES)}),
        MetricRecord({"values": [1.0], "scale": 1.0}),
        ConfigRecord({"scale": 1e-9, "encoding": "int8"}),
        *(_update(ONES, scale=scale) for scale in ("x", [1.0])),
        *(_update(ONES, values=values) for values in ("x", [1, 2])),
    ],
)
def test_an_answer_of_other_records_ends_no_round(forged: Any) -> None:
    assert list(answering(forged).train([1, 2], START.model.broadcast(), 1)) == []


@pytest.mark.parametrize(
    "forged",
    [
        {"encoding": "float64"},
        {"encoding": ["int8"]},
        {"values": b"1", "encoding": "float32"},
        {"scale": math.inf},
    ],
)
def test_a_forged_encoding_counts_as_a_report_of_zeros(forged: dict[str, Any]) -> None:
    plan = small_plan(parameters=START.model.weights.size)
    collector = ClearCollector(answering(_update(ONES, **forged)))
    found = collector.collect([1, 2], START.model.broadcast(), plan, 1)
    assert found.reports == 2 and not found.total.any()


def test_vanishing_and_failing_nodes_are_missing_reports() -> None:
    devices = make_devices()

    def find(context: Context) -> Device:
        if context.node_id == 2:
            raise RuntimeError("battery empty")
        return devices[context.node_id]

    settings = fedavg.RoundSettings(cohort=NODES, report_goal=NODES, minimum_reports=4)
    grid = LocalGrid(client_app(find), NODES, drops=lambda node, message: node == 5)
    direct = LocalPopulation({n: d for n, d in make_devices().items() if n not in (2, 5)})
    state, results = rounds_of(flower(grid), 2, settings)
    expected, expected_results = rounds_of(direct, 2, settings)
    assert [r.reports for r in results] == [4, 4] and results == expected_results
    assert np.array_equal(state.model.weights, expected.model.weights)


def test_round_is_void_when_most_nodes_vanish() -> None:
    grid = make_grid(
        drops=lambda node, message: node > 1 and message.metadata.message_type == MessageType.TRAIN
    )
    state, results = rounds_of(flower(grid), 2)
    assert all(r.void for r in results)
    assert np.array_equal(state.model.weights, START.model.weights)


def test_poisoned_and_empty_replies_do_not_stop_a_round() -> None:
    devices = make_devices()
    honest = client_app(lambda context: devices[context.node_id])
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply = honest(message, context)
        if context.node_id == 1:
            flat = np.full(START.model.weights.size, np.nan, dtype=np.float32)
            return Message(RecordDict({"update": _update(flat)}), reply_to=message)
        if context.node_id == 2:
            return Message(RecordDict(), reply_to=message)
        return reply

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        if context.node_id == 1:
            lie = MetricRecord({"steps": 1, "top1": 9, "top5": 9, "loss": 0.0})
            return Message(RecordDict({"score": lie}), reply_to=message)
        if context.node_id == 3:
            endless = MetricRecord({"steps": math.inf, "top1": 0, "top5": 0, "loss": 0.0})
            return Message(RecordDict({"score": endless}), reply_to=message)
        return honest(message, context)

    settings = fedavg.RoundSettings(cohort=NODES, report_goal=NODES, minimum_reports=2)
    state, results = rounds_of(flower(LocalGrid(app, NODES)), 1, settings)
    assert (results[0].reports, results[0].refused) == (4, 1)
    assert 0 <= results[0].top1 <= 1 and np.isfinite(state.model.weights).all()


def test_diverged_training_is_a_report_of_zeros() -> None:
    def train(weights: np.ndarray, round_number: int) -> np.ndarray:
        raise WeightsError("an update with values that are not finite cannot be clipped")

    plan = small_plan(parameters=START.model.weights.size)
    population = flower(LocalGrid(training_app(VOCABULARY, train), 2))
    assert [len(u) for _, u in population.train([1, 2], START.model.broadcast(), 1)] == [0, 0]
    found = ClearCollector(population).collect([1, 2], START.model.broadcast(), plan, 1)
    assert found.reports == 2 and not found.total.any()
    state, tally = fedavg.apply_reports(
        START, [1, 2], population.train([1, 2], START.model.broadcast(), 1), SETTINGS
    )
    assert (tally.reports, tally.refused) == (0, 2)
    assert np.array_equal(state.model.weights, START.model.weights)


def test_device_of_another_vocabulary_answers_an_error(caplog: pytest.LogCaptureFixture) -> None:
    other = Vocabulary.from_catalogue([f"{name} " for name in SAMPLE_CATALOGUE])
    assert other.size == VOCABULARY.size
    population = FlowerPopulation(make_grid(), other)
    assert list(population.train([1, 2], START.model.broadcast(), 1)) == []
    assert population.evaluate([1, 2], START.model.broadcast(), 1) == {}
    assert "vocabulary" in caplog.text


def test_grid_keeps_nodes_apart_and_replies_once() -> None:
    grid = make_grid(run_config={"seed": 3})
    population = flower(grid)
    (message,) = population.requests(MessageType.EVALUATE, [4], START.model.broadcast(), 1)
    ids = grid.push_messages([message])
    (reply,) = grid.pull_messages(ids)
    assert reply.metadata.reply_to_message_id == ids[0] and reply.metadata.src_node_id == 4
    assert grid.pull_messages(ids) == []
    assert grid.run.run_id == 1
    made = grid.create_message(message.content, MessageType.EVALUATE, 4, "1")
    (again,) = grid.send_and_receive([made])
    assert made.metadata.group_id == "1" and again.content["score"] == reply.content["score"]


PRIVATE = {"epsilon": 4.0, "delta": 1e-3, "population": 100}


def _config(**more: Any) -> dict[str, Any]:
    rounds = {"seed": 7, "rounds": 2, "cohort": 4, "report-goal": 4, "minimum-reports": 2}
    return rounds | {"timeout-s": 1.0, "catalogue-file": "", "weights-file": ""} | more


def _context(config: dict[str, Any], node: dict[str, Any] | None = None) -> Context:
    return Context(
        run_id=1, node_id=0, node_config=node or {}, state=RecordDict(), run_config=config
    )


def test_the_apps_run_against_each_other(tmp_path: Path) -> None:
    config = _config(**{"weights-file": str(tmp_path / "weights.npy")})
    grid = LocalGrid(client, 4, run_config=config)
    server(grid, _context(config))
    released = np.load(tmp_path / "weights.npy")
    initial = IntentModel(VOCABULARY.size, seed=7).vector()
    assert released.dtype == np.float32 and released.shape == initial.shape
    assert not np.array_equal(released, initial) and np.isfinite(released).all()


def test_accuracy_is_measured_on_data_of_the_operator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No message asks a device for counts, and a device with a history would not answer."""
    history, catalogue = tmp_path / "history.json", tmp_path / "catalogue.txt"
    history.write_text(json.dumps([["milk", "bread"]] * 20))
    catalogue.write_text("milk\nbread\n")
    asked: list[str] = []

    class Watched(LocalGrid):
        def push_messages(self, messages: Iterable[Message]) -> list[str]:
            kept = list(messages)
            asked.extend(message.metadata.message_type for message in kept)
            return super().push_messages(kept)

    files: dict[str, Any] = {"catalogue-file": str(catalogue)}
    for more, told in (
        ({}, "round 2: loss "),
        (files, "round 2: not scored"),
        (files | {"evaluation-file": str(history)}, "round 2: loss "),
    ):
        caplog.clear()
        config = _config(**more)
        with caplog.at_level("INFO", "flwr.tactful_federated"):
            server(Watched(client, 4, run_config=config), _context(config))
        assert told in caplog.text and "nan" not in caplog.text
    assert set(asked) == {MessageType.TRAIN}
    config = _config(**files)
    context = _context(config, {"history-file": str(history)})
    vocabulary = device_of(context).vocabulary
    weights = IntentModel(vocabulary.size, seed=7).vector()
    population = FlowerPopulation(LocalGrid(client, 1, run_config=config), vocabulary)
    train, evaluate = (
        next(iter(population.requests(kind, [1], weights, 1)))
        for kind in (MessageType.TRAIN, MessageType.EVALUATE)
    )
    assert not client(train, context).has_error()
    with pytest.raises(HistoryError, match="not private"):
        client(evaluate, context)


def test_a_private_run_goes_on_in_its_directory(tmp_path: Path) -> None:
    files = {"directory": str(tmp_path / "run"), "weights-file": str(tmp_path / "weights.npy")}
    wishes = {"report-goal": 2, "minimum-reports": 1, **PRIVATE}
    config = _config(**files, **wishes, rounds=3)

    def run(nodes: int) -> None:
        server(LocalGrid(client, nodes, run_config=config), _context(config))

    with pytest.raises(HistoryError, match="2 of 3 releases"):
        run(8)  # four devices a round, and each only once: enough for two
    run(12)
    released = np.load(tmp_path / "weights.npy")
    assert np.isfinite(released).all()
    kept = np.load(tmp_path / "run" / "state.npz")
    assert kept["counts"].tolist()[1] == 3
    before = released.copy()
    run(12)  # nothing is left to spend, so nothing moves
    assert np.array_equal(np.load(tmp_path / "weights.npy"), before)


def test_a_run_without_a_directory_or_devices_is_refused() -> None:
    config = _config(directory="", **PRIVATE)
    with pytest.raises(SettingsError, match="directory is empty"):
        server(LocalGrid(client, 4, run_config=config), _context(config))
    config = _config(**{"timeout-s": 0.0})
    with pytest.raises(HistoryError, match="fewer than 2 devices"):
        server(LocalGrid(client, 1, run_config=config), _context(config))


def test_a_device_reads_its_own_files(tmp_path: Path) -> None:
    catalogue, history = tmp_path / "catalogue.txt", tmp_path / "history.json"
    catalogue.write_text("milk\nbread\n")
    history.write_text(json.dumps([["milk", "milk", "bread"]] * 5))
    config = _config(**{"catalogue-file": str(catalogue)})
    device = device_of(_context(config, {"history-file": str(history)}))
    assert device.vocabulary.categories == ("bread", "milk")
    assert device.evaluate(IntentModel(5).vector()).steps == 2


@pytest.mark.parametrize("content", ["{", "{}", "[1]", "[[1]]", None])
def test_a_broken_history_file_is_named(tmp_path: Path, content: str | None) -> None:
    history = tmp_path / "history.json"
    if content is not None:
        history.write_text(content)
    with pytest.raises(HistoryError, match=r"history\.json"):
        device_of(_context(_config(), {"history-file": str(history)}))
