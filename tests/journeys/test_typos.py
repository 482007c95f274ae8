"""A typing mistake in every option of every command, made from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from tests.journeys.installation import Terminal

from tactful.cli.main import main


def commands(group: click.Group = main, *path: str) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Words and long options of every command, those of groups included."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        words = {word for it in command.params for word in [*it.opts, *it.secondary_opts]}
        yield (*path, name), {word for word in words if word.startswith("--")} | {"--help"}
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


def misspelt(option: str, number: int) -> str:
    """Leave out, double or exchange letters of an option, or write its hyphens otherwise."""
    ways = [
        option[:-1],
        option + option[-1],
        option[:3] + option[4:5] + option[3] + option[5:],
        option[:3] + option[4:],
        "--" + option[2:].replace("-", "_"),
    ]
    different = [way for way in ways if way != option]
    return different[number % len(different)]


@pytest.mark.slow
@pytest.mark.usefixtures("nowhere")
def test_every_option_misspelt_is_named_and_the_right_one_proposed() -> None:
    tried = 0
    for number, (words, options) in enumerate(commands()):
        for place, option in enumerate(sorted(options)):
            wrong = misspelt(option, number + place)
            if wrong in options:
                continue
            result = CliRunner().invoke(main, [*words, wrong])
            line = (*words, wrong, result.output)
            assert result.exit_code == 2, line
            assert wrong in result.stderr.splitlines()[-1], line
            assert option in result.stderr.splitlines()[-1], line
            tried += 1
    assert tried > 400


@pytest.fixture
def nowhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("nowhere"))


@pytest.mark.slow
def test_mistakes_in_words_values_settings_and_columns(terminal: Terminal) -> None:
    table = "customer,product,action,when\n1,tea,view,2026-11-01T10:00:00Z\n"
    (terminal.folder / "views.csv").write_text(table)
    (terminal.folder / "wrong.toml").write_text("[server]\nprot = 1\n")
    for line, wrong, right in (
        ("tactful improt views.csv", "'improt'", "'import'"),
        ("tactful keys creat --scope admin", "'creat'", "'create'"),
        ("tactful keys create --scope ingets", "'ingets'", "ingest"),
        ("tactful import view.csv", "'view.csv'", "does not exist"),
        ("tactful import views.csv --kind evnts", "'evnts'", "'events'"),
        ("tactful import views.csv --map usr=customer", "'usr'", "'user'"),
        ("tactful import views.csv --map user=custmer", "'custmer'", "'customer'"),
        ("tactful import views.csv --map-type view=veiw", "'veiw'", "'view'"),
        ("tactful import views.csv --time-zone Europe/Berln", "'Europe/Berln'", "Europe/Berlin"),
        ("tactful serve --port abc", "'abc'", "integer"),
        ("tactful doctor --config wrong.toml", "'prot'", "'port'"),
        ("tactful doctor --config wrnog.toml", "wrnog.toml", "cannot be read"),
    ):
        printed = terminal.run(line, code=2)
        assert wrong in printed.last and right in printed.last, printed.err
    for variable in ("TACTFUL_SERVER__PROT", "TACTFUL_SERVER_PORT"):
        elsewhere = Terminal(terminal.programs, terminal.folder, (), {variable: "1"})
        assert variable in elsewhere.run("tactful doctor", code=2).last
    assert not (terminal.folder / "tactful-data" / "log").exists(), "no server was begun"
