"""Documents stay true: links resolve, named files and commands exist, both READMEs agree."""

import ast
import dataclasses
import importlib
import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from tactful.metrics.public import FAILURES, UNPUBLISHED
from tests.test_layout import PACKAGES, tracked

ROOT = Path(__file__).resolve().parents[1]

_FENCE = re.compile(r"^ *(```+|~~~+)(.*)$")
_HEADING = re.compile(r"^(#{1,6}) +(.+?) *#*$")


def documents() -> list[Path]:
    """Every Markdown file that git tracks or would track."""
    return sorted({ROOT / path for path in tracked("*.md")} or ROOT.glob("*.md"))


def split_blocks(text: str) -> tuple[list[str], list[str]]:
    """Lines of prose, and the fenced code blocks (first line: the fence's language)."""
    prose: list[str] = []
    blocks: list[str] = []
    fence, block = "", [""]
    for line in text.splitlines():
        match = _FENCE.match(line)
        if fence:
            if match and match[1].startswith(fence) and not match[2].strip():
                blocks.append("\n".join(block))
                fence = ""
            else:
                block.append(line)
        elif match:
            fence, block = match[1], [match[2].strip()]
        else:
            prose.append(line)
    return prose, blocks


def heading_levels(text: str) -> list[int]:
    return [len(match[1]) for line in split_blocks(text)[0] if (match := _HEADING.match(line))]


def differences(original: str, translation: str) -> list[str]:
    """In what a translation departs from its original: headings by level, code by every letter."""
    found = []
    ours, theirs = heading_levels(original), heading_levels(translation)
    if ours != theirs:
        found.append(f"heading levels {ours} became {theirs}")
    blocks, translated = split_blocks(original)[1], split_blocks(translation)[1]
    if len(blocks) != len(translated):
        found.append(f"{len(blocks)} code blocks became {len(translated)}")
    for number, (block, other) in enumerate(zip(blocks, translated, strict=False), start=1):
        if block != other:
            found.append(f"code block {number} differs:\n{block}\nbecame\n{other}")
    return found


def links(text: str) -> list[str]:
    """Targets of the Markdown and HTML links and pictures in the prose."""
    prose = re.sub(r"`[^`]*`", "", "\n".join(split_blocks(text)[0]))
    return re.findall(r"\]\(<?([^)\s>]+)", prose) + re.findall(r'(?:href|src)="([^"]+)"', prose)


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as GitHub and as Python-Markdown write them."""
    found = set()
    for line in split_blocks(text)[0]:
        if match := _HEADING.match(line):
            words = re.sub(r"[^\w\s-]", "", re.sub(r"`|\*", "", match[2]).lower()).strip()
            found |= {words.replace(" ", "-"), re.sub(r"[\s-]+", "-", words)}
    return found


def broken_links(path: Path, text: str) -> list[str]:
    found = []
    for link in links(text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists():
            found.append(link)
        elif anchor and target.suffix == ".md":
            content = text if target == path else target.read_text(encoding="utf-8")
            if anchor not in anchors(content):
                found.append(link)
    return found


def code(text: str) -> list[str]:
    """Code spans of the prose and lines of the code blocks."""
    prose, blocks = split_blocks(text)
    spans = re.findall(r"`([^`\n]+)`", "\n".join(prose))
    return spans + [line.strip() for block in blocks for line in block.splitlines()[1:]]


def missing_paths(text: str) -> list[str]:
    """Paths of the repository that a text names and that do not exist."""
    top = "platform|privacy|streaming|federated|bandits|ui|tests|benchmarks|docs|examples|scripts"
    named = re.compile(rf"(?:{top}|deploy|\.ci)/[\w./-]*")
    spans = re.findall(r"`([^`\n]+)`", "\n".join(split_blocks(text)[0]))
    script = re.compile(r"\bscripts/\w+(?:-\w+)*")
    commands = [name for line in code(text) for name in script.findall(line)]
    paths = [span for span in spans if named.fullmatch(span)] + commands
    return [path for path in paths if not (ROOT / path).exists()]


def commands(text: str) -> Iterator[list[str]]:
    """Words of each `tactful …` command in code, up to a pipe, a comment or a continuation."""
    for line in code(text):
        match = re.match(r"(?:\$ +)?(?:scripts/demo|(?:\w+=\S+ +)*tactful)(?= |$)", line)
        if match:
            rest = re.split(r"[|;&>#\\…]|\.\.\.", line[match.end() :])[0]
            head = ["demo"] if match[0].endswith("scripts/demo") else []
            yield head + shlex.split(rest)


def subcommands(group: click.Group) -> dict[str, click.Command]:
    """Commands of a group by name, imported."""
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def unknown_words(words: list[str]) -> list[str]:
    """Words of a command that the command line does not know: subcommands and options."""
    from tactful.cli.main import main

    command: click.Command = main
    unknown = []
    known = {"--help"}
    for word in words:
        known |= {option for it in command.params for option in [*it.opts, *it.secondary_opts]}
        if word.startswith("-"):
            if word.split("=")[0] not in known:
                unknown.append(word)
        elif isinstance(command, click.Group):
            following = subcommands(command).get(word)
            if following is None:
                return [*unknown, word]
            command = following
    return unknown


def broken_code(language: str, code: str, folder: Path) -> str | None:
    """What is wrong with a block of code in one of the languages that we can check.

    Python has to parse, and what it imports of ours has to exist; settings, definitions and rules
    are read as the product reads them.
    """
    from tactful.config.load import load_settings
    from tactful.errors import ConfigError
    from tactful_streaming.definitions.reader import load_definitions
    from tactful_streaming.errors import StreamingError
    from tactful_streaming.rules.rules import load_rules

    try:
        if language == "python":
            return missing_import(ast.parse(code))
        if language == "toml":
            file = folder / "tactful.toml"
            file.write_text(code, encoding="utf-8")
            load_settings(file, environ={})
        if language == "yaml" and isinstance(elements := yaml.safe_load(code), list):
            if any("entity" in element for element in elements):
                load_definitions(code)
            elif any({"when", "normalise"} & element.keys() for element in elements):
                file = folder / "rules.yaml"
                file.write_text(code, encoding="utf-8")
                load_rules(file)
    except (SyntaxError, yaml.YAMLError, ConfigError, StreamingError) as error:
        return str(error)
    return None


def missing_import(tree: ast.AST) -> str | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tactful"):
            module = importlib.import_module(node.module or "")
            for name in node.names:
                if not hasattr(module, name.name):
                    return f"{node.module} has no {name.name}"
    return None


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_document_is_true(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for block in split_blocks(text)[1]:
        language, _, code = block.partition("\n")
        assert broken_code(language, textwrap.dedent(code), tmp_path) is None, code
    assert broken_links(path, text) == []
    assert missing_paths(text) == []
    for words in commands(text):
        assert unknown_words(words) == [], f"in the command: tactful {shlex.join(words)}"


def test_both_readmes_agree() -> None:
    original = (ROOT / "README.md").read_text(encoding="utf-8")
    translation = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    assert differences(original, translation) == []
    assert "scripts/demo" in original
    assert "scripts/test" in original


def test_every_decision_has_its_three_parts() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    for number, path in enumerate(decisions, start=1):
        assert path.name[:4] == f"{number:04}"
        titles = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert titles == ["Context", "Decision", "Consequences"], path.name


def test_every_term_of_the_glossary_is_explained_once_and_linked() -> None:
    text = (ROOT / "docs" / "reference" / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE)[1:]
    terms = [term.casefold() for term, _ in rows]
    assert terms == sorted(set(terms))
    for term, meaning in rows:
        assert re.fullmatch(r".+\(\[[^\]]+\]\([^)]+\)\)\.", meaning), term
        assert len(re.findall(r"\.(?= |$)", meaning)) <= 2, f"{term}: more than two sentences"


def test_every_page_is_in_the_index_and_in_the_navigation() -> None:
    docs = ROOT / "docs"
    index = (docs / "index.md").read_text(encoding="utf-8")
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for folder in ("tutorials", "how-to", "explanation"):
        for path in sorted((docs / folder).glob("*.md")):
            name = path.relative_to(docs).as_posix()
            assert f"({name})" in index, name
            assert f" {name}\n" in navigation, name


def test_every_setting_is_in_its_reference_with_its_default() -> None:
    from tactful.config.settings import Settings

    def as_toml(value: object) -> str:
        text = "" if value == Path() else str(value)
        return json.dumps(text if isinstance(value, str | Path) else value)

    settings = Settings()
    defaults = {
        f"{section.name}.{setting.name}": as_toml(getattr(held, setting.name))
        for section in dataclasses.fields(settings)
        for held in [getattr(settings, section.name)]
        for setting in dataclasses.fields(held)
    }
    text = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+\.\w+)` \| `(.*?)` \|", text, re.MULTILINE)
    assert dict(rows) == defaults
    assert len(rows) == len(defaults)


def commands_of_the_product() -> dict[str, set[str]]:
    """Every command by the words that call it, with its options."""
    from tactful.cli.main import main

    found: dict[str, set[str]] = {}
    waiting: list[tuple[str, click.Command]] = [("", main)]
    for name, command in waiting:
        if isinstance(command, click.Group):
            waiting += [(f"{name} {word}".strip(), it) for word, it in subcommands(command).items()]
        else:
            options = (p for p in command.params if isinstance(p, click.Option))
            found[name] = {word for option in options for word in option.opts}
    return found


def command_rows(text: str) -> list[tuple[str, set[str]]]:
    """Rows of the tables of commands: the command without its arguments, and the options named."""
    word = "[a-z]+(?:-[a-z]+)*"
    row = rf"^\| `tactful ({word}(?: {word})*?)(?: [A-Z_]+)*` \|.*\|(.*)\|$"
    rows = re.findall(row, text, re.MULTILINE)
    return [(name, set(re.findall(r"`(--[\w-]+)`", options))) for name, options in rows]


def test_every_command_is_in_the_reference_with_options_that_it_has() -> None:
    commands = commands_of_the_product()
    rows = command_rows((ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8"))
    assert sorted(name for name, _ in rows) == sorted(commands)
    for name, options in rows:
        assert options <= commands[name], name


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "package"), PACKAGES.items())
def test_every_public_name_is_in_the_reference(folder: str, package: str) -> None:
    # The site leaves out what has no docstring, and says nothing about it.
    griffe = pytest.importorskip("griffe", reason="the group docs is not installed")
    page = package.removeprefix("tactful_")
    assert f"::: {package}\n" in (ROOT / "docs" / "reference" / f"{page}.md").read_text("utf-8")
    found = griffe.load(package, search_paths=[ROOT / folder], resolve_aliases=True)
    public = found.exports
    assert public
    assert [str(name) for name in public if not found[str(name)].has_docstring] == []


def metrics_of_the_product() -> set[str]:
    """Names of metrics as Prometheus is shown them: of counters only what went wrong."""
    sources = [path.read_text("utf-8") for path in (ROOT / "platform" / "tactful").rglob("*.py")]
    source = "\n".join(sources)
    made = r"\b(counter|gauge|histogram)(?:MetricFamily)?\(\s*\"(tactful_\w+)\""
    found = set(re.findall(r"\(\s*\"(tactful_worker_\w+)\"", source))
    for kind, name in re.findall(made, source, re.IGNORECASE):
        if kind.lower() != "counter":
            found.add(name)
        elif (counted := name.removesuffix("_total")) in FAILURES:
            found.add(f"{counted}_total")
    names = re.findall(r"\bgauges?\(\s*\"(?!tactful_)(\w+)\"", source)
    return (found - UNPUBLISHED) | {f"tactful_{name}" for name in names}


def metrics_in_tables(text: str) -> set[str]:
    """Metrics of the first column; ``_b`` after a comma stands for the end of the name before."""
    found = set()
    for cell in re.findall(r"^\| (`tactful_.+?) \|", text, re.MULTILINE):
        name = ""
        for part in re.findall(r"`(\w+)(?:\{\w+(?:,\w+)*\})?`", cell):
            name = name.rpartition("_")[0] + part if part.startswith("_") else part
            found.add(name)
    return found


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs" / "how-to" / "operate.md").read_text(encoding="utf-8")
    assert metrics_in_tables(text) == metrics_of_the_product()


# The checks themselves.

SAMPLE = """# Title

Words with `tactful demo --quick` and `scripts/demo`.

## First

```sh
scripts/demo   # not a heading
# neither is this
```
"""


@pytest.mark.parametrize(
    ("count", "before", "after"),
    [
        (0, "Title", "标题"),
        (0, "Words with", "文字"),
        (1, "## First", "### First"),
        (1, "## First", "First"),
        (1, "# not a heading", "# no heading"),
        (1, "```sh", "```console"),
        (1, "```\n", "```\n\n```sh\nscripts/test\n```\n"),
    ],
)
def test_planted_differences_are_found(count: int, before: str, after: str) -> None:
    assert len(differences(SAMPLE, SAMPLE.replace(before, after))) == count


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# One `word` & another\n")
    text = (
        "# Here\n[a](there.md) [b](gone.md) [c](there.md#one-word-another) [d](there.md#nowhere)\n"
        '[e](#here) [f](#gone) [g](https://example.org/x) ![h](gone.svg) <img src="gone.png">\n'
        "`[i](in-code.md)`\n```\n[j](in-block.md)\n```\n"
    )
    path = tmp_path / "text.md"
    path.write_text(text)
    found = " ".join(broken_links(path, text))
    assert found == "gone.md there.md#nowhere #gone gone.svg gone.png"


def test_paths_and_commands_are_read_from_spans_and_blocks() -> None:
    text = "`scripts/demo --quick`, `tests/conftest.py`, `ui/gone.py`\n```\nscripts/gone --x\n```"
    assert missing_paths(text) == ["ui/gone.py", "scripts/gone"]
    text = (
        "`tactful demo --quick` and `tactful.client` and `tactful_ui`\n"
        "```sh\n$ TACTFUL_PORT=1 tactful serve --dev  # starts\nscripts/demo --quick\n```\n"
    )
    assert list(commands(text)) == [["demo", "--quick"], ["serve", "--dev"], ["demo", "--quick"]]
    assert unknown_words(["keys", "create", "--scope", "ingest"]) == []
    assert unknown_words(["serve", "--no-such-option", "x"]) == ["--no-such-option"]
    assert unknown_words(["no-such-command", "--quick"]) == ["no-such-command"]
    assert unknown_words(["keys", "forge"]) == ["forge"]


@pytest.mark.parametrize(
    ("language", "works", "broken"),
    [
        ("python", "from tactful_streaming import Engine", ["\nif", ", NoSuchThing"]),
        ("toml", "[log]\nkind = 'kafka'\nbrokers = 'b:9092'", ["\nbroker = 'b:9092'"]),
        ("toml", "[log]", ["\nkind = 'elsewhere'"]),
        (
            "yaml",
            "- {name: a, entity: user, event: view, aggregate: count, window: {size: 1h}}",
            ["\n- {name: b, entity: user, event: view, aggregate: count, window: {size: 0s}}"],
        ),
        (
            "yaml",
            "- {name: a, when: {properties.price: {below: 0}}, action: drop}",
            ["\n- {name: b, when: {properties.prise: 1, nobody: 2}, action: drop}"],
        ),
    ],
)
def test_broken_code_is_found(language: str, works: str, broken: list[str], tmp_path: Path) -> None:
    assert broken_code(language, works, tmp_path) is None
    for more in broken:
        assert broken_code(language, works + more, tmp_path) is not None


def test_rows_of_commands_and_metrics_are_read() -> None:
    text = "| `tactful a b FILE KEY_ID` | `--x` | `--one`, `--two-three` |\n| `tactful c` | | |\n"
    assert command_rows(text) == [("a b", {"--one", "--two-three"}), ("c", set())]
    text = "| `tactful_a_total{kind,result}` | x | y |\n| `tactful_b_one`, `_two` | `tactful_c` | |"
    assert metrics_in_tables(text) == {"tactful_a_total", "tactful_b_one", "tactful_b_two"}


def test_named_tests_exist() -> None:
    """A table of what is supported names the test of each line."""
    made = {
        node.name
        for path in tracked("tests/**/*.py", "tests/*.py")
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    named = {
        name
        for path in documents()
        for name in re.findall(r"`(test_[a-z0-9_]+)`", path.read_text("utf-8"))
    }
    assert named
    assert named <= made
