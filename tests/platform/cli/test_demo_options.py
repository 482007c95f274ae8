"""Which options of the demo belong together."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tactful.cli.main import main
from tactful.demo.shop import run
from tactful.demo.shop.run import ShopOptions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--shop --quick", "--shop replays nothing: leave out --quick"),
        ("--shop --data online-retail --path x", "leave out --data, --path"),
        ("--no-open", "--no-open belongs to --shop"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: str, message: str) -> None:
    done = CliRunner().invoke(main, ["demo", *arguments.split()])
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ShopOptions(Path("tactful-data/shop"), 8420)),
        (["--directory", "d", "--port", "0"], ShopOptions(Path("d"), 0)),
    ],
)
def test_the_shop_has_a_directory_of_its_own(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: ShopOptions
) -> None:
    """Else it would remove what a run of the demo has left."""
    started: list[ShopOptions] = []
    monkeypatch.setattr(run, "run_shop", lambda options, opened: started.append(options))
    done = CliRunner().invoke(main, ["demo", "--shop", *arguments])
    assert (done.exit_code, started) == (0, [expected])


def test_the_addresses_are_printed_as_json_and_a_browser_opens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(run, "run_shop", lambda options, opened: opened("http://a", "http://b"))
    monkeypatch.setattr("webbrowser.open", shown.append)
    done = CliRunner().invoke(main, ["demo", "--shop", "--json", "--no-open"])
    assert (done.stdout, shown) == ('{"url":"http://a","server":"http://b"}\n', [])
    assert CliRunner().invoke(main, ["demo", "--shop"]).stdout == ""
    assert shown == ["http://a"]
