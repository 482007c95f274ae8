"""``tactful rules``: what a check reports, and how dead letters are sent again."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from tests.platform.support import Live, now_ms, view

from tactful.cleaning.redrive import redrive
from tactful.cli.main import main
from tactful.client import Client
from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.log.dead_letters import DeadLetter, DeadLetters
from tactful_streaming.rules.rules import load_rules

RULES = """\
- {name: tests, when: {context.test: true}, action: drop}
- {name: category, normalise: {properties.category: [strip, lower]}}
- name: dear
  when: {properties.price: {above: {of: item.price, times: 10}}}
  action: dead_letter
"""


@pytest.fixture(autouse=True)
def at_rules(elsewhere: None) -> None:
    Path("rules.yaml").write_text(RULES)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["rules", *(str(it) for it in arguments)])


def checked(*arguments: object) -> Any:
    result = run("check", *arguments, "--json")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return json.loads(result.stdout)


def events() -> list[dict[str, Any]]:
    return [
        view(0),
        view(1, context={"test": True}),
        view(2, properties={"category": " Kitchen ", "price": 1}),
        view(3, properties={"price": 500}, item_id="cheap"),
        view(4, properties={"price": 5}, item_id="cheap"),
    ]


def lines(elements: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(element) + "\n" for element in elements)


@pytest.mark.parametrize("form", ["ndjson", "array", "gz", "spread"])
def test_a_check_counts_by_rule_and_shows_samples(tmp_path: Path, form: str) -> None:
    file = tmp_path / "events"
    (tmp_path / "items").write_text(lines([{"item_id": "cheap", "price": 5.0}]))
    text = lines(events())
    if form == "array":
        text = json.dumps(events(), indent=1)
    elif form == "spread":
        text = text.replace("\n", "\n\n")
    file.write_bytes(gzip.compress(text.encode()) if form == "gz" else text.encode())
    report = checked("rules.yaml", file, "--items", tmp_path / "items")
    assert (report["events"], report["clean"], report["changed"]) == (5, 3, 1)
    assert (report["dropped"], report["dead_lettered"], report["refused"]) == (1, 1, 0)
    found = {rule["rule"]: rule for rule in report["rules"]}
    counts = {name: rule["events"] for name, rule in found.items()}
    assert counts == {"tests": 1, "category": 1, "dear": 1}
    place = 4 if form in ("array", "ndjson", "gz") else 7
    (dear,) = found["dear"]["samples"]
    assert (dear["place"], dear["event"]["item_id"]) == (place, "cheap")
    (category,) = found["category"]["samples"]
    assert category["event"]["properties"]["category"] == " Kitchen "
    assert category["after"]["properties"]["category"] == "kitchen"
    assert found["dear"]["line"] == 3


def test_samples_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "events"
    file.write_text(lines([view(number, context={"test": True}) for number in range(2500)]))
    report = checked("rules.yaml", file, "--samples", 2)
    assert report["dropped"] == 2500
    assert [sample["place"] for sample in report["rules"][0]["samples"]] == [1, 2]


def test_what_is_no_event_is_counted_and_named(tmp_path: Path) -> None:
    file = tmp_path / "events"
    bad = [{"type": "view"}] * 30
    file.write_text("not json\n" + lines([*bad, view(1)]) + "[")
    result = run("check", "rules.yaml", file)
    assert result.exit_code == 7
    assert "1 events: 1 clean" in result.stdout
    assert "32 lines are no event" in result.stdout
    refusals = result.stderr.splitlines()
    assert refusals[0].startswith(f"{file}:1: ")
    assert refusals[1].startswith(f"{file}:2: missing_field: ")
    assert len(refusals) == 20


def test_a_person_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "events"
    file.write_text(lines(events()))
    result = run("check", "rules.yaml", file)
    assert result.exit_code == 0
    assert "5 events: 4 clean (1 of them changed), 1 dropped, 0 set aside" in result.stdout
    assert "tests (rules.yaml:1): context.test is true" in result.stdout
    assert 'becomes {"properties":{"category":"kitchen","price":1}}' in result.stdout
    strict = run("check", "rules.yaml", file, "--expect-clean")
    assert strict.exit_code == 7


def test_records_of_a_topic_are_taken_as_they_are(tmp_path: Path) -> None:
    """A topic may hold what no door would let in; its item updates make the catalogue."""
    file = tmp_path / "topic"
    elements = [
        {"kind": "item", "item_id": "cheap", "timestamp": now_ms(), "price": 5.0},
        {"kind": "event", **view(1, properties={"price": -5})},
        {"kind": "event", **view(2, properties={"price": 500}, item_id="cheap")},
        {"kind": "nothing"},
    ]
    file.write_text(lines(elements))
    Path("more.yaml").write_text(
        RULES + "- {name: negative, when: {properties.price: {below: 0}}, action: dead_letter}\n"
    )
    report = checked("more.yaml", file, "--source", "topic")
    counts = {rule["rule"]: rule["events"] for rule in report["rules"]}
    assert counts == {"tests": 0, "category": 0, "dear": 1, "negative": 1}
    assert [refusal["place"] for refusal in report["refusals"]] == [4]
    assert checked("more.yaml", file)["refused"] == 4, "the door lets none of these in"


def test_mistakes_end_with_one_line_and_their_code(tmp_path: Path) -> None:
    Path("events").write_text(lines(events()))
    Path("bad.yaml").write_text(RULES.replace("above", "over"))
    Path("cut.gz").write_bytes(gzip.compress(lines(events()).encode())[:-20])
    Path("array").write_text('[{"a": 1},')
    for arguments, code, part in (
        (("check", "bad.yaml", "events"), 2, "bad.yaml:4: when: properties.price: 'over'"),
        (("check", "rules.yaml", "absent"), 2, "does not exist"),
        (("check", "rules.yaml", "cut.gz"), 1, "cut.gz: cannot be read"),
        (("check", "rules.yaml", "array"), 1, "begins like a JSON array but is not valid JSON"),
        (("letters", "--data", "nowhere"), 1, "no dead letters here"),
        (("redrive", "--data", "nowhere"), 1, "no dead letters here"),
    ):
        result = run(*arguments)
        assert result.exit_code == code, (arguments, result.output)
        assert part in result.stderr
        assert "Traceback" not in result.output
    Path("empty").write_text("")
    assert checked("rules.yaml", "empty")["events"] == 0
    assert run("check", "rules.yaml", "empty").exit_code == 0


# Dead letters


def keep(data: Path, letters: list[DeadLetter]) -> None:
    kept = DeadLetters.open(data / "dead-letters", durability="process")
    kept.add(letters)
    kept.close()


def letter(number: int, rule: str = "dear", **changes: Any) -> DeadLetter:
    event = msgspec.convert(view(number, **changes), Event)
    return DeadLetter(
        payload=encode_entry(event), rule=rule, reason=f"{rule} it is", partition=0, offset=number
    )


def test_letters_are_counted_and_printed(tmp_path: Path) -> None:
    keep(Path("d"), [letter(1), letter(2), letter(2), letter(3, "odd")])
    counted = run("letters", "--data", "d")
    assert [line.split() for line in counted.stdout.splitlines()] == [
        ["2", "dear:", "dear", "it", "is"],
        ["1", "odd:", "odd", "it", "is"],
    ]
    printed = run("letters", "--data", "d", "--json", "--rule", "odd")
    (one,) = map(json.loads, printed.stdout.splitlines())
    assert (one["position"], one["rule"], one["offset"]) == (3, "odd", 3)
    assert one["event"]["event_id"] == "u-3"
    assert "kind" not in one["event"]


def test_letters_are_sent_again_once(live: Live, tmp_path: Path) -> None:
    keep(Path("d"), [letter(1), letter(2, "odd"), letter(3)])
    sent = ("redrive", "--data", "d", "--url", live.url, "--json")
    first = json.loads(run(*sent, "--rule", "dear").stdout)
    assert (first["accepted"], first["duplicates"], first["rejected"]) == (2, 0, 0)
    keep(Path("d"), [letter(4)])
    second = json.loads(run(*sent).stdout)
    assert second["accepted"] == 2, "the other rule's, and what came since"
    assert json.loads(run(*sent).stdout)["accepted"] == 0
    third = json.loads(run(*sent, "--restart").stdout)
    assert (third["accepted"], third["duplicates"]) == (0, 4)
    with Client(live.url) as client:
        end = client.events([view(99, user="other")]).position
    assert live.views("u", end) == 4


def test_letters_are_mended_on_the_way(live: Live, tmp_path: Path) -> None:
    keep(
        Path("d"),
        [
            letter(1, properties={"price": -5}),
            letter(2, context={"test": True}),
            DeadLetter(payload=b"?", rule="unreadable", reason="", partition=0, offset=3),
            letter(4, properties={"price": 5}),
        ],
    )
    sent = ("redrive", "--data", "d", "--url", live.url)
    Path("mend.yaml").write_text("""
- {name: tests, when: {context.test: true}, action: drop}
- {name: sign, normalise: {properties.price: absolute}}
""")
    mended = run(*sent, "--mend", "mend.yaml")
    assert mended.exit_code == 0
    assert mended.stdout == (
        "2 accepted, 0 known before, 0 refused, 1 held back by the mending rules, 1 no event\n"
    )
    unmended = run(*sent, "--restart")
    assert unmended.exit_code == 6
    assert "letter 0: bad_number: properties.price is negative" in unmended.stderr


def test_a_broken_redrive_goes_on_where_it_stopped(live: Live, tmp_path: Path) -> None:
    keep(Path("d"), [letter(number) for number in range(1200)])
    progress = Path("d/dead-letters/redriven.json")
    kept = DeadLetters.open(Path("d/dead-letters"), read_only=True)

    class Broken(Client):
        answers = 0

        def send_lines(self, *arguments: Any, **options: Any) -> Any:
            self.answers += 1
            if self.answers == 2:
                raise ConnectionError("gone")
            return super().send_lines(*arguments, **options)

    with Broken(live.url) as broken, pytest.raises(ConnectionError):
        redrive(broken, kept, progress, ["dear"])
    with Client(live.url) as client:
        rest = redrive(client, kept, progress, ["dear"])
    kept.close()
    assert (rest.accepted, rest.duplicates) == (700, 0)
    assert json.loads(progress.read_bytes()) == {"dear": 1200}


def test_a_damaged_progress_file_is_named(live: Live, tmp_path: Path) -> None:
    keep(Path("d"), [letter(1)])
    Path("d/dead-letters/redriven.json").write_text("{")
    result = run("redrive", "--data", "d", "--url", live.url)
    assert result.exit_code == 1
    assert "begin anew with --restart" in result.stderr


def test_the_packaged_rules_are_well_formed() -> None:
    import tactful

    rules = load_rules(Path(tactful.__file__).with_name("rules.yaml"))
    names = [rule.name for rule in rules.rules]
    assert names[0] == "crawlers"
    assert names[-1] == "refund_without_order"
