"""Notes of a compiled job: each appears for the definitions that it applies to, and else not."""

import pytest

from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.flink.notes import Note, compile_notes
from tactful_streaming.flink.options import FlinkOptions

COUNT = "{name: n, entity: session, event: view, aggregate: count, window: {size: 1m}}"
LAST = "{name: l, entity: session, event: view, aggregate: last_time}"
PAIR = "{name: p, entity: session, sequence: [view, leave], within: 5m}"
QUIET = "{name: q, entity: session, sequence: [view, {not: leave, for: 1m}], within: 5m}"
RECENT = "{name: r, entity: session, event: view, aggregate: last_n, of: item_id, n: 2}"


def notes(*definitions: str, **options: object) -> dict[str, tuple[str, ...]]:
    settings = FlinkOptions("kafka:9092", "events", **options)  # type: ignore[arg-type]
    loaded = load_definitions("".join(f"- {it}\n" for it in definitions))
    found = compile_notes(loaded, settings)
    return {note.text: note.definitions for note in found}


def changed(definition: str, old: str, new: str) -> str:
    assert old in definition
    return definition.replace(old, new)


@pytest.mark.parametrize(
    ("start", "without", "having"),
    [
        ("a window is written once", LAST, COUNT),
        ("a window is written once", PAIR, changed(COUNT, "{size: 1m}", "{gap: 1m}")),
        ("max_groups has no effect", COUNT, changed(COUNT, "count,", "count, group_by: item_id,")),
        ("max_groups has no effect", LAST,
         changed(COUNT, "count,", "distinct, of: item_id, sketch: exact,")),
        ("the sketch has", changed(COUNT, "count,", "distinct, of: item_id, sketch: exact,"),
         changed(COUNT, "count,", "distinct, of: item_id,")),
        ("the sketch has", changed(COUNT, "count,", "max, of: properties.x,"),
         changed(COUNT, "count,", "quantile, q: 0.5, of: properties.x,")),
        ("window has no effect", RECENT, changed(RECENT, "n: 2", "n: 2, window: {size: 1d}")),
        ("an event belongs to the user", COUNT, changed(COUNT, "session", "user")),
        ("emit has no effect", PAIR, changed(PAIR, "within", "emit: gone, within")),
        ("published later", QUIET, changed(QUIET, ", for: 1m", "")),
        ("a match that waits for silence is stored for 8 days", PAIR, QUIET),
        ("the newest values of every entity and group are stored for ever", COUNT, LAST),
        ("the last 8 versions of every item", changed(COUNT, "count,", "count, group_by: item_id,"),
         changed(COUNT, "count,", "count, group_by: category,")),
    ],
)  # fmt: skip
def test_a_note_appears_only_where_it_applies(start: str, without: str, having: str) -> None:
    """The second definition is named with the first beside it, and the first never."""
    first = changed(without, "name: ", "name: other_")
    assert not any(text.startswith(start) for text in notes(first))
    (names,) = (names for text, names in notes(first, having).items() if text.startswith(start))
    assert names == tuple(it.name for it in load_definitions(f"- {having}").all)


def test_newest_values_stay_for_ever_unless_all_have_a_window() -> None:
    def kept(*definitions: str) -> dict[str, tuple[str, ...]]:
        found = notes(*definitions)
        return {text: names for text, names in found.items() if text.startswith("the newest")}

    windowed = changed(RECENT, "name: r", "name: w").replace("n: 2", "n: 2, window: {size: 1d}")
    ever = "the newest values of every entity and group are stored for ever"
    days = (
        "the newest values of an entity are stored for 9 days after its last event, by the "
        "cluster's clock"
    )
    assert kept(COUNT) == {}
    assert kept(RECENT) == {ever: ("r",)}
    assert kept(windowed) == {days: ("w",)}
    assert kept(RECENT, windowed) == {ever: ("r", "w")}
    assert kept(LAST, windowed) == {ever: ("l",), days: ("w",)}


def test_matches_beside_windows_are_late() -> None:
    def late(*definitions: str, **options: object) -> list[tuple[str, ...]]:
        found = notes(*definitions, **options)
        return [names for text, names in found.items() if text.startswith("found 5m later")]

    assert late(COUNT, PAIR) == [("p",)]
    assert late(LAST, PAIR) == late(COUNT) == late(COUNT, PAIR, allowed_lateness_ms=0) == []


def test_decay_from_panes_is_noted() -> None:
    decayed = changed(COUNT, "{size: 1m}", "{size: 5m, slide: 1m, decay: 0.5}")
    start = "with --decay panes"
    assert not any(text.startswith(start) for text in notes(decayed))
    assert not any(text.startswith(start) for text in notes(COUNT, decay="panes"))
    assert any(text.startswith(start) for text in notes(decayed, decay="panes"))


def test_the_lifetime_of_event_ids_is_noted() -> None:
    def of_ids(**options: object) -> list[str]:
        found = notes(LAST, COUNT, **options)
        assert all(names == ("l", "n") for text, names in found.items() if "dedupe" in text)
        return [text.partition(" (")[0] for text in found if "dedupe" in text]

    stored = "an event id is stored for 7 days after it last came, by the cluster's clock"
    assert of_ids() == [stored]
    assert of_ids(dedupe_days=0) == ["an event counts as often as it is in the log"]


def test_without_the_runner_all_state_has_one_lifetime() -> None:
    def common(yaml: str) -> str:
        options = FlinkOptions("kafka:9092", "events")
        texts = [it.text for it in compile_notes(load_definitions(yaml), options, runner=False)]
        assert not any("stored" in text for text in texts)
        return texts[-1].rpartition(": ")[2]

    assert common(f"- {COUNT}") == "7 d after its last change"
    assert common(f"- {COUNT}\n- {LAST}") == "for ever"


def test_what_the_server_computes_is_noted_with_entities() -> None:
    category = "{name: c, entity: category, event: view, aggregate: count, window: {size: 1m}}"
    text = "not part of the job: the server computes it"
    assert notes(COUNT, category, PAIR, output="entities") == {text: ("c", "p")}
    assert notes(COUNT, output="entities") == {}


def test_a_line_has_the_first_names() -> None:
    assert Note(("a", "b"), "late").line == "a, b: late"
    assert Note(tuple("abcdef"), "late").line == "a, b, c, d and 2 more: late"
