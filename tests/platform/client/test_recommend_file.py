"""Recommendations for all users of a file, through a real server."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pyarrow import parquet
from tests.platform.support import Live, build, small_settings

from tactful.cli.main import main
from tactful.client import Client
from tactful.client.recommend_file import COLUMNS, read_users, recommend_file
from tactful.errors import DatasetError
from tactful.schemas.recommendations import RecommendRequest
from tactful.server.platform import Platform

USERS = [f"user {number}, 'é'" for number in range(250)]
REQUEST = RecommendRequest(count=2)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        live.http.put("/v1/items", json=[{"item_id": f"i{number}"} for number in range(5)])
        yield live


def users_file(path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["city", "user_id"], *(["Oslo", user] for user in USERS)])
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return found
    with path.open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_user_gets_a_list(live: Live, tmp_path: Path, suffix: str) -> None:
    source, target = users_file(tmp_path / "users.csv"), tmp_path / f"letters{suffix}"
    steps: list[int] = []
    with Client(live.url) as client:
        outcome = recommend_file(client, source, target, REQUEST, advanced=steps.append)
    assert (outcome.users, outcome.rows, outcome.problems) == (250, 500, [])
    assert sum(steps) == 250
    found = rows(target)
    assert tuple(found[0]) == COLUMNS
    assert [row["user_id"] for row in found[::2]] == USERS
    assert {int(row["place"]) for row in found} == {1, 2}
    assert all(row["item_id"].startswith("i") and row["recommendation_id"] for row in found)
    assert [path.name for path in tmp_path.glob("letters*")] == [target.name]


def test_a_run_that_was_cut_off_goes_on(live: Live, tmp_path: Path) -> None:
    """At any byte of the result; only the last batch is asked for again."""
    source, target = users_file(tmp_path / "users.csv"), tmp_path / "letters.csv"
    part = tmp_path / "letters.csv.part"

    class Cut(Exception):
        pass

    def stop(users: int) -> None:
        if users and part.stat().st_size > 20_000:
            raise Cut

    with Client(live.url) as client:
        with pytest.raises(Cut):
            recommend_file(client, source, target, REQUEST, advanced=stop)
        assert not target.exists()
        whole = part.read_bytes()
        first = {row["recommendation_id"] for row in rows(part)[:200]}
        for size in (len(whole), len(whole) - 7, 12_000, 30):
            part.write_bytes(whole[:size])
            outcome = recommend_file(client, source, target, REQUEST)
            found = rows(target)
            assert [row["user_id"] for row in found[::2]] == USERS, size
            assert (outcome.users, outcome.rows) == (250, 500)
            kept = {row["recommendation_id"] for row in found[:200]}
            assert (kept == first) == (size > 15_000), size
            target.unlink()
        others = [f"{user},1,i1,1,all,r," for user in ("other", "another")]
        part.write_text("\r\n".join([",".join(COLUMNS), *others]), "utf-8")
        with pytest.raises(DatasetError, match="of other users"):
            recommend_file(client, source, target, REQUEST)


def test_a_user_without_a_list_is_named_by_its_line(live: Live, tmp_path: Path) -> None:
    source, target = tmp_path / "users.txt", tmp_path / "out.csv"
    source.write_text("ada\n\nbob\n" + "x" * 300 + "\nada\n", "utf-8")
    with Client(live.url) as client:
        outcome = recommend_file(client, source, target, REQUEST)
    assert [(place, problem.code) for place, problem in outcome.problems] == [(3, "invalid")]
    assert [row["user_id"] for row in rows(target)][:5] == ["ada", "ada", "bob", "bob", "x" * 300]
    assert outcome.users == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds no user id"), ("name,city\nada,Oslo\n", "none is named 'user_id'")],
)
def test_a_file_without_users_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "users.csv").write_text(text, "utf-8")
    with pytest.raises(DatasetError, match=message):
        read_users(tmp_path / "users.csv")


def test_the_command_writes_a_newsletter(live: Live, tmp_path: Path) -> None:
    source, target = users_file(tmp_path / "users.csv"), tmp_path / "letters.csv"
    base = ["recommend", "--url", live.url, "--count", "2"]
    done = CliRunner().invoke(main, [*base, "--users", str(source), "--out", str(target)])
    assert done.exit_code == 0, done.output
    assert "500 rows of 250 users" in done.output
    for wrong, message in (
        (["--users", str(source)], "come together"),
        (["--users", str(source), "--out", str(target), "--user", "u"], "leave out --user"),
        (["--user", "u", "--filter", "{"], "--filter"),
        (["--users", str(source), "--out", str(tmp_path / "a.xlsx")], ".csv or .parquet"),
    ):
        refused = CliRunner().invoke(main, [*base, *wrong])
        assert refused.exit_code in (1, 2)
        assert message in refused.output
