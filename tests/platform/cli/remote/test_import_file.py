"""``tactful import`` from outside: what it prints, what the server gets, and how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from tests.platform.support import Live, build, logged, view

from tactful.cli.main import main
from tactful.config.settings import Settings
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Event, Item

pytestmark = pytest.mark.usefixtures("elsewhere")


def run(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(main, [str(it) for it in arguments], **options)


def nobody() -> str:
    """The URL of a port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def write(path: Path, *elements: Any) -> Path:
    lines = [it if isinstance(it, str) else json.dumps(it) for it in elements]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def events_of(live: Live) -> list[Event]:
    """The events in the log of a server, in their order."""
    data = live.platform.settings.storage.data
    return [it for it in logged(data) if isinstance(it, Event)]


@pytest.mark.slow
def test_json_lines_resume_and_refused_ones_are_told(live: Live, tmp_path: Path) -> None:
    file = write(
        tmp_path / "events.ndjson", view(1), "", {"type": "view"}, view(2), view(1), "not json"
    )
    first = run("import", file, "--url", live.url, "--batch", 2)
    assert first.exit_code == 6, "because lines were rejected"
    assert "2 accepted, 1 known before, 2 rejected (from row 1)" in first.stdout
    rejected = [line.split(": ")[0] for line in first.stderr.splitlines()[-2:]]
    assert rejected == [f"{file}:3", f"{file}:6"]
    with file.open("a") as more:
        more.write(json.dumps(view(3)) + "\n")
    second = run("import", file, "--url", live.url, "--json")
    outcome = json.loads(second.stdout)
    assert second.exit_code == 0
    assert (outcome["accepted"], outcome["duplicates"], outcome["resumed_at"]) == (1, 0, 7)
    third = json.loads(run("import", file, "--url", live.url, "--json", "--restart").stdout)
    assert (third["accepted"], third["duplicates"], third["resumed_at"]) == (0, 4, 1)
    assert live.views("u", third["position"]) == 3
    again = run("import", file, "--url", live.url)
    assert (again.exit_code, again.stdout) == (
        0,
        "nothing new: all of it was sent before, up to row 7; --restart sends it again\n",
    )


def test_the_former_name_says_so_and_works(live: Live, tmp_path: Path) -> None:
    file = write(tmp_path / "items.ndjson", {"item_id": "a"}, {"item_id": "b"})
    options = ("--kind", "items", "--batch", 1, "--in-flight", 2, "--restart", "--json")
    result = run("ingest", file, "--url", live.url, *options)
    assert (result.exit_code, json.loads(result.stdout)["accepted"]) == (0, 2)
    assert result.stderr == "tactful ingest is now called tactful import\n"


def test_progress_is_kept_when_the_server_goes(settings: Settings, tmp_path: Path) -> None:
    file = write(tmp_path / "events.ndjson", *(view(number) for number in range(100)))
    with Live(Platform.open(settings, build)) as live:
        host = live.platform.settings.server.host
        fixed = replace(settings, server=replace(settings.server, port=live.port))
        answers = iter([True, True])
        append = live.platform.ingest.events

        async def twice(*arguments: Any, **options: Any) -> Any:
            if not next(answers, False):
                raise RuntimeError("gone")
            return await append(*arguments, **options)

        live.platform.ingest.events = twice  # type: ignore[method-assign]
        broken = run("import", file, "--url", live.url, "--batch", 10)
        assert broken.exit_code == 4
    with Live(Platform.open(fixed, build)):
        rest = run("import", file, "--url", f"http://{host}:{live.port}", "--json")
    outcome = json.loads(rest.stdout)
    assert (outcome["accepted"], outcome["duplicates"], outcome["resumed_at"]) == (80, 0, 21)


SALES = (
    "Kunden-Nr;Artikel;Größe;Menge;Preis;Wann\r\n"
    "1001;A-7;S;1;12,50 €;31.07.2024 10:00\r\n"
    "1002;B-8;M;2;1.012,50 €;31.01.2024 10:00\r\n"
)


def test_a_csv_with_odd_names_and_local_times(live: Live, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_bytes(SALES.encode("cp1252"))
    options = ("--map", "time=Wann", "--set", "type=purchase", "--time-zone", "Europe/Berlin")
    sent = run("import", "sales.csv", *options, "--map", "properties.size=Größe", "--url", live.url)
    assert sent.exit_code == 0, sent.output
    assert sent.stdout == "2 accepted, 0 known before, 0 rejected (from row 1)\n"
    for part in (
        "sales.csv: CSV (semicolons), Windows-1252",
        "kind: events (by the columns",
        "← Kunden-Nr",
        "day/month/year, in Europe/Berlin",
        "decimal comma",
        "sorted by time",
        "not UTF-8",
    ):
        assert part in sent.stderr
    found = {event.user_id: event for event in events_of(live)}
    assert [event.user_id for event in events_of(live)] == ["1002", "1001"], "by time"
    assert found["1001"].timestamp == 1722412800000
    assert found["1002"].timestamp == 1706691600000
    assert (found["1002"].type, found["1002"].item_id) == ("purchase", "B-8")
    assert found["1002"].properties == {
        "price": 1012.5,
        "quantity": 2,
        "currency": "EUR",
        "size": "M",
    }


def test_a_preview_sends_nothing_and_needs_no_server(tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_bytes(SALES.encode("cp1252"))
    options = ("--map", "time=Wann", "--set", "type=purchase", "--url", nobody())
    for option in ("--preview", "--dry-run"):
        shown = run("import", "sales.csv", *options, option)
        assert shown.exit_code == 0, shown.output
        assert '"user_id":"1001"' in shown.stdout
        assert "nothing was sent" in shown.stderr
    document = json.loads(run("import", "sales.csv", *options, "--preview", "--json").stdout)
    assert document["mapping"]["user_id"] == "Kunden-Nr"
    assert document["elements"][0]["properties"]["price"] == 12.5
    assert not (tmp_path / "state").exists()


def parquet(path: Path, count: int) -> Path:
    start = time.time_ns() // 1_000_000 - count
    table = pa.table(
        {
            "customer_id": [float(n % 50) if n % 10 else None for n in range(count)],
            "session_id": [f"s-{n // 10}" for n in range(count)],
            "product_id": [n for n in range(count)],
            "event": ["view"] * count,
            "event_time": pa.array([start + n for n in range(count)], pa.timestamp("ms", "UTC")),
        }
    )
    pq.write_table(table, path, row_group_size=3_000)
    return path


@pytest.mark.slow
def test_a_killed_import_of_parquet_loses_and_doubles_nothing(live: Live, tmp_path: Path) -> None:
    count = 20_000
    file = parquet(tmp_path / "events.parquet", count)
    command = [sys.executable, "-m", "tactful", "import", str(file), "--url", live.url, "--json"]
    command += ["--batch", "100", "--in-flight", "2"]
    records = tmp_path / "state" / "tactful" / "imports"
    kills = 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        before = {path: path.read_bytes() for path in records.glob("*.json")}
        while process.poll() is None and kills < 3:
            if {path: path.read_bytes() for path in records.glob("*.json")} != before:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        out, err = process.communicate(timeout=120)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
    outcome = json.loads(out)
    assert kills == 3
    assert outcome["resumed_at"] > 1, "it did not begin anew"
    items = Counter(event.item_id for event in events_of(live))
    assert len(items) == count, "nothing is lost"
    assert {*items.values()} == {1}, "nothing is doubled"
    subjects = {event.user_id or event.device_id for event in events_of(live)}
    assert subjects == {str(n) for n in range(50) if n % 10} | {
        f"s-{n // 10}" for n in range(0, count, 10)
    }


def test_a_wrong_kind_stops_at_once_and_leaves_no_trace(live: Live, tmp_path: Path) -> None:
    """A forgotten or wrong kind never makes later runs send nothing."""
    file = write(tmp_path / "items.ndjson", *({"item_id": f"i{n}", "title": "T"} for n in range(9)))
    wrong = run("import", file, "--kind", "events", "--url", live.url)
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "cannot be sent as events (--kind)" in wrong.stderr
    guessed = run("import", file, "--url", live.url, "--json")
    assert (guessed.exit_code, json.loads(guessed.stdout)["accepted"]) == (0, 9)
    data = live.platform.settings.storage.data
    assert len([entry for entry in logged(data) if isinstance(entry, Item)]) == 9


def test_rows_without_consent_end_in_an_error(settings: Settings, tmp_path: Path) -> None:
    """Where the server refuses everything, the import says so and fails."""
    consent = replace(settings, consent=replace(settings.consent, default="deny"))
    file = write(tmp_path / "events.ndjson", *(view(number) for number in range(10)))
    with Live(Platform.open(consent, build)) as live:
        result = run("import", file, "--url", live.url)
    assert result.exit_code == 1
    assert "rejected all of the first 10 rows (10 no_consent)" in result.stderr


def test_a_state_directory_that_cannot_be_written_is_said(live: Live, tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("")
    environment = {"XDG_STATE_HOME": str(tmp_path / "blocked")}
    file = write(tmp_path / "events.ndjson", view(1))
    for expected in (1, 0):
        result = run("import", file, "--url", live.url, env=environment)
        assert result.exit_code == 0
        assert "note: progress is not kept" in result.stderr
        assert f"{expected} accepted, {1 - expected} known before" in result.stdout


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--kind", "event"), "'events'"),
        (("--format", "cvs"), "'csv'"),
        (("--map", "usr=user"), "did you mean 'user'?"),
        (("--map", "user=usr"), "did you mean 'user'?"),
        (("--set", "tpye=view"), "did you mean 'type'?"),
        (("--set", "type=viwe"), "did you mean 'view'?"),
        (("--map-type", "see=viwe"), "did you mean 'view'?"),
        (("--time-zone", "Europe/Berlni"), "did you mean 'Europe/Berlin'?"),
        (("--date-order", "ymd"), "'dmy'"),
        (("--decimal", "dot"), "'point'"),
        (("--order", "tiem"), "'time'"),
        (("--encoding", "uft-8"), "--encoding 'uft-8' is unknown"),
        (("--delimiter", "comma"), "give one character, tab or ::"),
        (("--columns", "user,item"), "--columns has 2 names"),
        (("--sheet", "Sheet1"), "--sheet has no effect"),
        (("--batch", "0"), "1<=x<=1000"),
        (("--in-flight", "99"), "1<=x<=32"),
        (("--key-file", "nowhere"), "does not exist"),
        (("--previw",), "--preview"),
    ],
)
def test_a_typo_in_an_option_ends_with_code_2(
    options: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    write(tmp_path / "t.csv", "user,item,type,time", "ada,tea,view,2024-01-31")
    result = run("import", "t.csv", "--url", nobody(), *options)
    assert result.exit_code == 2, result.output
    assert problem in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is empty"),
        ("user,item,type,time\n", "has a header but no rows"),
        ("tea\ncup\n", "cannot tell whether these are"),
        ("{}\n", "no column has a name"),
    ],
)
def test_a_file_without_content_is_an_error(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    result = run("import", "t.csv", "--url", nobody())
    assert result.exit_code == 1
    assert problem in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_how_to_is_true(live: Live, tmp_path: Path) -> None:
    """Its file, its commands and what it says they print."""
    text = (Path(__file__).parents[4] / "docs" / "how-to" / "import.md").read_text("utf-8")
    blocks = [block.split("\n", 1) for block in re.findall(r"```(\w+\n.*?)```", text, re.DOTALL)]
    (tmp_path / "orders.csv").write_text(blocks[0][1])
    assert [language for language, _ in blocks[:5]] == ["csv", "sh", "text", "sh", "text"]
    for (_, commands), (_, expected) in (blocks[1:3], blocks[3:5]):
        printed = ""
        for command in commands.splitlines():
            name, *words = shlex.split(command)
            assert name == "tactful"
            done = run(*words, env={"TACTFUL_URL": live.url})
            assert done.exit_code == 0, done.output
            printed += done.stdout
        assert printed == expected


def test_no_server_and_no_file(tmp_path: Path) -> None:
    file = write(tmp_path / "events.ndjson", view(1))
    result = run("import", file, "--url", nobody())
    assert (result.exit_code, result.stdout) == (3, "")
    assert "does not answer" in result.stderr
    assert run("import", "nowhere.csv").exit_code == 2


def test_pictures_beside_the_file_are_sent_and_nothing_else(live: Live, tmp_path: Path) -> None:
    from tests.platform.understanding.tiny_picture_model import plain_picture

    shop = tmp_path / "shop"
    (shop / "photos").mkdir(parents=True)
    blue = plain_picture((0, 0, 200))
    (shop / "photos" / "蓝.png").write_bytes(blue)
    (tmp_path / "outside.png").write_bytes(blue)
    (shop / "secret.txt").write_bytes(blue)
    (shop / "link.png").symlink_to(tmp_path / "outside.png")
    (shop / "huge.png").write_bytes(bytes(2_500_001))
    (shop / "broken.png").write_bytes(b"no picture")
    cells = ["photos/蓝.png", "", "../outside.png", str(tmp_path / "outside.png"), "secret.txt"]
    cells += ["link.png", "huge.png", "broken.png", "absent.png", "https://shop.example/a.png"]
    rows = "".join(f"i{n},Item {n},{cell}\n" for n, cell in enumerate(cells))
    (shop / "items.csv").write_text("item_id,title,photo\n" + rows)
    done = run("import", shop / "items.csv", "--map", "image=photo", "--url", live.url, "--json")
    assert done.exit_code == 6, done.output
    outcome = json.loads(done.stdout)
    assert (outcome["accepted"], outcome["rejected"]) == (2, 8)
    assert outcome["rejected_by_code"] == {"bad_picture": 8}
    items = [it for it in logged(live.platform.settings.storage.data) if isinstance(it, Item)]
    digest = hashlib.sha256(blue).hexdigest()
    assert [it.image for it in items] == [f"sha256:{digest}", msgspec.UNSET]
