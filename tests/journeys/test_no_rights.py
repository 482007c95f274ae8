"""Places that cannot be written: each command says which, before it works for minutes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.journeys.installation import Terminal

pytestmark = pytest.mark.slow

_TABLE = "user_id,item_id,type,timestamp\na,b,view,2026-11-20T10:00:00Z\n"


@pytest.fixture
def limited(terminal: Terminal) -> Terminal:
    """A terminal without the right of root to pass over the permissions of files."""
    before: tuple[str, ...] = ()
    if os.geteuid() == 0:
        rights = "-dac_override,-dac_read_search"
        before = ("setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}")
    closed = terminal.folder / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    try:
        attempt = subprocess.run([*before, "touch", str(closed / "file")], capture_output=True)
    except OSError as error:
        pytest.skip(f"root's rights cannot be dropped here: {error}")
    if attempt.returncode == 0 or b"Permission denied" not in attempt.stderr:
        pytest.skip(f"root's rights cannot be dropped here: {attempt.stderr.decode()}")
    return Terminal(terminal.programs, terminal.folder, before)


def test_a_data_directory_that_cannot_be_made_or_written(limited: Terminal) -> None:
    for command in ("serve --dev --port 0", "keys create --scope admin"):
        printed = limited.run(f"tactful {command} --data closed/data", code=1)
        assert printed.err == (
            "tactful: closed/data: cannot be used as data directory: Permission denied; "
            "choose another one with --data\n"
        )
    printed = limited.run("tactful serve --dev --port 0 --data closed", code=1)
    assert "closed: cannot be used as data directory: Permission denied" in printed.last
    checked = limited.run("tactful doctor --data closed --port 0", code=7).out
    assert re.search(r"^failed +disk +closed cannot be written: Permission", checked, re.MULTILINE)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tactful demo --quick --directory closed/demo", "closed/demo: Permission denied"),
        ("tactful demo --quick --reports closed/reports", "closed/reports: Permission denied"),
        ("tactful privacy audit --quick --plots closed/plots", "closed/plots: Permission denied"),
    ],
)
def test_results_of_minutes_are_not_lost_at_the_end(
    limited: Terminal, line: str, said: str
) -> None:
    assert limited.run(line, code=1).last == f"tactful: {said}"


def test_files_and_progress_that_cannot_be_written(limited: Terminal) -> None:
    (limited.folder / "views.csv").write_text(_TABLE)
    (limited.folder / "secret.csv").write_text(_TABLE)
    (limited.folder / "secret.csv").chmod(0)
    (limited.folder / "users.txt").write_text("a\n")
    with limited.serving() as shop:
        state = {**shop.terminal.variables, "XDG_STATE_HOME": str(limited.folder / "closed")}
        stateless = Terminal(limited.programs, limited.folder, limited.before, state)
        for counts in ("1 accepted, 0 known before", "0 accepted, 1 known before"):
            printed = stateless.run("tactful import views.csv")
            assert "note: progress is not kept, so an interrupted run begins anew" in printed.err
            assert counts in printed.out, (
                "without progress all of the file is sent, and counts once"
            )
        assert "'secret.csv' is not readable" in shop.run("tactful import secret.csv", code=2).last
        # The names of files beside the one that is asked for are temporary.
        for line, place in (
            ("tactful recommend --users users.txt --out closed/lists.csv", "closed/lists.csv"),
            ("tactful user export a --to closed/a", "closed/a"),
            ("tactful backup closed/copy", "closed/copy"),
        ):
            said = shop.run(line, code=1).err
            assert len(said.splitlines()) == 1
            assert place in said and "Permission denied" in said


def test_a_training_names_the_store_that_it_cannot_write(
    limited: Terminal, written_shop: Callable[[Path], None]
) -> None:
    written_shop(limited.folder / "tactful-data")
    closed = Terminal(limited.programs, limited.folder / "closed", limited.before)
    said = closed.run("tactful train --promote --data ../tactful-data", code=1).last
    assert said.startswith("tactful: sqlite:///mlflow.db: ")
    assert "/closed/mlflow.db cannot be written" in said and "choose another store" in said


@pytest.fixture
def written_shop(terminal: Terminal) -> Callable[[Path], None]:
    """Makes a data directory with one event."""

    def write(directory: Path) -> None:
        (terminal.folder / "views.csv").write_text(_TABLE)
        with terminal.serving() as shop:
            shop.run("tactful import views.csv")
        if directory != terminal.folder / "tactful-data":
            shutil.move(terminal.folder / "tactful-data", directory)

    return write
