"""Each sentence of the pages has a translation, and each translation belongs to a sentence."""

import ast
import json
import re
from pathlib import Path

import pytest

import tactful_ui

PACKAGE = Path(str(tactful_ui.__file__)).parent
CATALOGUES = sorted((PACKAGE / "locale" / "zh").glob("*.json"))


def sentences() -> dict[str, str]:
    """Return the sentences that the code translates, with the file of each."""
    found: dict[str, str] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id != "_":
                    continue
                (first,) = node.args
                assert isinstance(first, ast.Constant) and isinstance(first.value, str), (
                    f"{path.name}: line {node.lineno}"
                )
                found[first.value] = path.name
    return found


def fields(sentence: str) -> list[str]:
    return sorted(re.findall(r"\{(\w+)[^}]*\}", sentence))


def test_every_sentence_is_translated_and_no_translation_is_left_over() -> None:
    used = sentences()
    assert len(used) > 20
    known: dict[str, str] = {}
    for path in CATALOGUES:
        for english, chinese in json.loads(path.read_text("utf-8")).items():
            assert known.setdefault(english, chinese) == chinese, f"two translations of {english!r}"
    assert not used.keys() - known.keys(), "without a translation"
    assert not known.keys() - used.keys(), "no page says this"
    for english, chinese in known.items():
        assert fields(english) == fields(chinese), english


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_a_catalogue_is_in_chinese(path: Path) -> None:
    for english, chinese in json.loads(path.read_text("utf-8")).items():
        plain = re.sub(r"[`*{}].*?[`*{}]|[A-Z@ε%]+\b", "", english)
        assert re.search(r"[\u4e00-\u9fff]", chinese) or not re.search(r"[a-z]{3}", plain), english
