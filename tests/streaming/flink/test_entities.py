"""Compiled jobs of packed entities: their specification, and refusals; other tests run them."""

import json
from typing import Any

import pytest

from tactful.config.settings import PACKAGED_FEATURES
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import DefinitionError
from tactful_streaming.flink.compiler import compile_flink
from tactful_streaming.flink.entities import entities_tag, entity_hash, entity_kinds
from tactful_streaming.flink.options import FlinkOptions
from tactful_streaming.windows.entity_table import EntityTable

COUNT = "- {name: views, entity: user, event: view, aggregate: count, window: {size: 1m}}\n"
OF_ITEM = """\
- {name: sold, entity: item, event: view, aggregate: count, window: {size: 1m}}
- {name: bought, entity: user, sequence: [view, purchase], within: 1h, emit: thanks}
"""


def specified(yaml: str, **options: Any) -> dict[str, Any]:
    settings = FlinkOptions("kafka:9092", "log", output="entities", **options)
    *_, statement = compile_flink(load_definitions(yaml), settings, file="f.yaml").statements
    assert statement.startswith("ENTITIES '") and statement.endswith("'")
    spec: dict[str, Any] = json.loads(statement[len("ENTITIES '") : -1].replace("''", "'"))
    return spec


def test_the_script_has_settings_and_one_statement() -> None:
    options = FlinkOptions("kafka:9092", "log", output="entities", job="it's", parallelism=3)
    script = compile_flink(load_definitions(COUNT), options)
    assert script.statements[0] == "SET 'pipeline.name' = 'it''s'"
    assert "SET 'parallelism.default' = '3'" in script.statements
    assert [statement.split()[0] for statement in script.statements][-2:] == ["SET", "ENTITIES"]


def test_the_layout_is_that_of_the_engine() -> None:
    definitions = load_definitions(PACKAGED_FEATURES)
    spec = specified(PACKAGED_FEATURES.read_text())
    assert [entity["kind"] for entity in spec["entities"]] == [*entity_kinds(definitions)]
    assert spec["tag"] == entities_tag(definitions)
    for entity in spec["entities"]:
        table = EntityTable(definitions.of_entity(entity["kind"]))
        assert entity["memory_ms"] == table.memory_ms
        keys = {column["key"] for one in entity["aggregates"] for column in one["columns"]}
        assert keys == table.spans.keys()


def test_an_aggregate() -> None:
    spec = specified(
        "- {name: f, entity: user, event: [view, x.*], aggregate: mean, of: properties.price,\n"
        "   group_by: category, max_groups: 7, window: {size: 5m, slide: 1m, decay: 0.5}}\n"
        "- {name: g, entity: user, event: [view, x.*], aggregate: sum, of: properties.price,\n"
        "   group_by: category, max_groups: 7, window: {size: 4m, step: 1m}}\n"
    )
    ((aggregate,),) = (entity["aggregates"] for entity in spec["entities"])
    assert (aggregate["events"], aggregate["custom"]) == (["view"], True)
    assert (aggregate["amounts"], aggregate["texts"]) == ("properties.price", "category")
    assert (aggregate["grouped"], aggregate["max_groups"]) == (True, 7)
    windows = [
        {"slide": 60_000, "panes": 5, "period": 0},
        {"slide": 60_000, "panes": 4, "period": 240_000},
    ]
    assert aggregate["windows"] == windows
    assert {column["fold"]: column["windows"] for column in aggregate["columns"]} == {
        "sum": windows,
        "count": windows[:1],
    }
    assert spec["properties"] == ["category", "price"]
    assert spec["reads_categories"] and not spec["reads_versions"]
    assert spec["fields"] == ["item_id"]


def test_what_a_sequence_emits_is_no_custom_event_of_a_person() -> None:
    assert "x.thanks" in specified(COUNT + OF_ITEM)["apart"]


def test_definitions_of_items_and_sequences_stay_with_the_server() -> None:
    spec = specified(COUNT + OF_ITEM)
    assert [entity["kind"] for entity in spec["entities"]] == ["user"]
    assert "sold" not in json.dumps(spec)
    with pytest.raises(DefinitionError, match=r"^f\.yaml: no feature is of a user or session"):
        specified(OF_ITEM)


def test_refusals() -> None:
    with pytest.raises(DefinitionError, match="leave out exactly_once"):
        specified(COUNT, exactly_once=True)
    priced = COUNT + (
        "- {name: spent, entity: user, event: view, aggregate: sum, of: item.price,"
        " window: {size: 1m}}\n"
    )
    assert specified(priced)["reads_versions"]
    with pytest.raises(DefinitionError, match=r"^f\.yaml:2: spent: .*item\.price needs the items"):
        specified(priced, catalogue=False)


def test_hashes_of_entities_differ_by_kind() -> None:
    """The job computes the same from the same text."""
    assert entity_hash("user", "ada") == "19d0191a4a07579538f81a3f3f84fc45"
    assert entity_hash("user", "ada") != entity_hash("session", "ada")
    assert len(entity_hash("user", "ä")) == 32
