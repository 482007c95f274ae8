"""Turn a document into the steps of one shell session, as a reader would take them.

Comments in a document say what a reader is assumed to have or to do:

==================================  =============================================================
``<!-- run: COMMANDS -->``          commands that a reader need not see, run at this place
``<!-- not run: REASON -->``        the next block cannot run in a test
``<!-- file: NAME -->``             the next block is this file; so is one that begins ``# NAME``
``<!-- adds to: NAME -->``          the next block goes to the end of this file
``<!-- printed -->``                the next block is part of the output of the blocks before it
==================================  =============================================================
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

_PART = re.compile(
    r"<!--\s*(?P<mark>run|not run|file|adds to|printed)\b:?(?P<text>.*?)-->"
    r"|^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_NAME = re.compile(r"# ([\w./-]+\.(?:yaml|toml))\b")

# Text in documents, its value in a test, and the reason.
SUBSTITUTIONS = (
    # Another program may listen on the default port.
    (re.compile(r"(?:localhost|127\.0\.0\.1):8420"), "127.0.0.1:{port}"),
    (re.compile(r"\b8421\b"), "{second}"),
    (re.compile(r"https://(?:tactful|shop)\.example(?=[/\"])"), "http://127.0.0.1:{port}"),
    # Services of a production network.
    (re.compile(r"https://mail\.example/hook"), "{webhook}"),
    (re.compile(r"\b(?:broker|kafka(?:-\d)?):9092(?:,kafka-\d:9092)*\b"), "{kafka}"),
    (re.compile(r"replication = 3"), "replication = 1"),
    (re.compile(r"redis://(?:localhost|redis|cache):6379/0"), "{redis}"),
    (re.compile(r"mysql\+pymysql://tactful:secret@db/\w+(?:\?charset=utf8mb4)?"), "{mysql}"),
    (re.compile(r"postgresql\+psycopg://tactful:secret@db/\w+"), "{postgres}"),
    (re.compile(r"valkey://cache:6379/0"), "{redis}"),
    (re.compile(r"http://jobmanager:8081"), "{flink}"),
    # Topics of a broker that other tests use, too.
    (
        re.compile(r"\btactful-(log(?:-16)?|features|entities|erased)\b(?!\.)"),
        r"tactful-\1-{name}",
    ),
    # A minute or two of training.
    (re.compile(r"--hours 4000"), "--hours 500"),
    # Folders of a production machine.
    (re.compile(r"(?<![\w./:}])/(?=(?:backups|exports|secrets|etc/tactful|srv)\b)"), "{folder}/"),
)


@dataclass(frozen=True)
class Step:
    """One part of a document.

    Attributes:
        action: ``sh``, ``python``, ``file``, ``adds to``, ``printed`` or ``not run``.
        code: what is run, written or compared.
        line: the line of the document, from 1.
        text: name of a file, or the reason of ``not run``.
    """

    action: str
    code: str
    line: int
    text: str = ""


def steps(document: str) -> list[Step]:
    """Return the steps of a document in their order; blocks that only show something have none."""
    found = []
    mark, text = "", ""
    for part in _PART.finditer(document):
        line = document.count("\n", 0, part.start()) + 1
        if part["mark"] == "run":
            found.append(Step("sh", textwrap.dedent(part["text"]).strip() + "\n", line))
        elif part["mark"]:
            mark, text = part["mark"], " ".join(part["text"].split())
        else:
            step = _block(mark, text, part["language"], textwrap.dedent(part["code"]), line)
            mark, text = "", ""
            if step is not None:
                found.append(step)
    return found


def _block(mark: str, text: str, language: str, code: str, line: int) -> Step | None:
    if mark:
        return Step(mark, code, line, text)
    if language in ("sh", "python"):
        return Step(language, code, line)
    if name := _NAME.match(code):
        return Step("file", code, line, name[1])
    return None


def substituted(parts: Iterable[Step], values: Mapping[str, str]) -> list[Step]:
    """Return the steps with the names of a production network replaced by those of a test.

    What is not run needs no service.
    """
    return [
        step if step.action == "not run" else replace(step, code=_substitute(step.code, values))
        for step in parts
    ]


def _substitute(code: str, values: Mapping[str, str]) -> str:
    for pattern, value in SUBSTITUTIONS:
        if pattern.search(code):  # else a service would be started for nothing
            code = pattern.sub(value.format_map(values), code)
    return code


def absent_lines(shown: str, printed: str) -> list[str]:
    """Return the lines of a block that the output lacks, at their place after the line before.

    Numbers and ids differ from run to run, as do the widths of columns: only words are compared.
    ``…`` stands for anything. JSON is compared without its white space, as one line.
    """
    if shown.startswith(("{", "[")):
        shown, printed = ("".join(text.split()) for text in (shown, printed))
    waiting = [_words(line) for line in printed.splitlines()]
    absent = []
    for line in filter(str.strip, shown.splitlines()):
        pattern = re.compile(".*".join(map(re.escape, _words(line).split("…"))))
        places = [number for number, other in enumerate(waiting) if pattern.search(other)]
        if places:
            del waiting[: places[0] + 1]
        else:
            absent.append(line)
    return absent


def _words(line: str) -> str:
    line = re.sub(r"\b(?=[0-9a-f-]*\d)[0-9a-f-]{8,}\b", "#", line)
    return " ".join(re.sub(r"[+-]?\d[\d,.]*", "#", line).split())
