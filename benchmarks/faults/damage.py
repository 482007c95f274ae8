"""Damage to every file of an installation, one at a time.

The server and the commands then read everything that `tests/platform/stored` compares. Each damaged
file must be refused with a message that names it, or the answers must be those before the damage.
A difference that the server's log names is counted apart from a silent one.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple, NoReturn

import httpx
import msgspec

from benchmarks.faults.decoders import STORED
from benchmarks.faults.fuzz import CRASHES, MEMORY, SEED
from benchmarks.figures import Figure

sys.path.append(str(STORED))  # `tests` is the name of other installed packages, too
from installation import (  # type: ignore[import-not-found]
    Installation,
    _read_all,
    unpack,
)

FIGURES: Final = [
    ("damaged_files", "files"),
    ("damage_silent_differences", "damages"),
    ("damage_deaths", "damages"),
]
QUICK: Final = 4
"""Damages of a quick run; a full one does all to every file."""

_READY_S: Final = 60.0
_PROCESSES: Final = 2
_NO_DATA: Final = frozenset({"LOCK", "lock", "writer.lock", "LOG", "server.log"})


class Damage(NamedTuple):
    """One damage to one file."""

    file: str  # below the installation
    kind: str


class Verdict(NamedTuple):
    """What became of it."""

    damage: Damage
    outcome: str  # same, refused, unnamed, told, silent or died
    message: str


def figures(quick: bool) -> list[Figure]:
    """Damage files, and judge the answers."""
    for name in ("cli.keys", "cli.privacy", "cli.rules", "cli.serve", "workers.pool"):
        importlib.import_module(f"tactful.{name}")  # before the forks, which then start at once
    made = json.loads((STORED / "made.json").read_text("utf-8"))
    folder = Path(tempfile.mkdtemp(prefix="damage-", dir=MEMORY))
    try:
        whole = _Forked(unpack(folder / "whole").folder)
        whole.command("expire", "--help")
        with whole.serving(made["key"]):
            pass  # the present version signs models, and records the segments of logs
        expected = _answers(_copy(whole, folder / "expected"), made)
        damages = list(_damages(whole.folder))
        Random(SEED).shuffle(damages)
        verdicts = _judge_all(damages[:QUICK] if quick else damages, whole, made, expected)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    _keep(verdicts)
    told = ", ".join(f"{number} {name}" for name, number in outcomes.most_common())
    count = len(verdicts)

    def figure(name: str, outcome: str) -> Figure:
        those = [verdict.damage for verdict in verdicts if verdict.outcome == outcome]
        note = "; ".join(f"{damage.kind} {damage.file}" for damage in those[:12])
        return Figure(name, len(those), "damages", runs=count, note=note)

    files = len({verdict.damage.file for verdict in verdicts})
    return [
        Figure("damaged_files", files, "files", runs=count, note=f"{count} damages: {told}"),
        figure("damage_silent_differences", "silent"),
        figure("damage_deaths", "died"),
        figure("damage_unnamed_refusals", "unnamed"),
    ]


def _damages(folder: Path) -> Iterator[Damage]:
    for path in sorted(
        [*(folder / "data").rglob("*"), *folder.glob("tombstones*"), folder / "master.key"]
    ):
        if not path.is_file() or path.name in _NO_DATA or path.name.startswith("LOG.old"):
            continue
        name = path.relative_to(folder).as_posix()
        yield Damage(name, "removed")
        if path.stat().st_size:
            kinds = ["bit 1", "bit 2", "cut", "emptied", "doubled"]
            if _other(path) is not None:
                kinds += ["replaced", "swapped"]
            yield from (Damage(name, kind) for kind in kinds)


def _other(path: Path) -> Path | None:
    """Return the next file of the same kind beside a file."""
    same = sorted(it for it in path.parent.glob(f"*{path.suffix}") if it.is_file())
    same = [it for it in same if it.name not in _NO_DATA and it.stat().st_size]
    return None if len(same) < 2 else same[(same.index(path) + 1) % len(same)]


def inflict(path: Path, kind: str) -> None:
    """Damage a file."""
    data = path.read_bytes()
    other = _other(path) if kind in ("replaced", "swapped") else None
    if kind == "removed":
        path.unlink()
    elif kind.startswith("bit"):
        bit = Random(f"{SEED}/{path.name}/{kind}").randrange(8 * len(data))
        flipped = bytes([data[bit // 8] ^ (1 << bit % 8)])
        path.write_bytes(data[: bit // 8] + flipped + data[bit // 8 + 1 :])
    elif kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "emptied":
        path.write_bytes(b"")
    elif kind == "doubled":
        path.write_bytes(data * 2)
    elif other is not None:
        path.write_bytes(other.read_bytes())
        if kind == "swapped":
            other.write_bytes(data)


def _judge_all(
    damages: Sequence[Damage], whole: _Forked, made: Any, expected: Any
) -> list[Verdict]:
    """Judge the damages in processes, which write a line for each."""
    base = whole.folder.parent
    workers = []
    for number in range(_PROCESSES):
        own = damages[number::_PROCESSES]

        def work(own: Sequence[Damage] = own, number: int = number) -> None:
            with (base / f"verdicts-{number}").open("ab") as out:
                for damage in own:
                    verdict = _judge(damage, whole, base / f"damaged-{number}", made, expected)
                    out.write(msgspec.json.encode(verdict) + b"\n")
                    out.flush()
                    if verdict.outcome in ("silent", "unnamed", "died"):
                        print(
                            *verdict.damage, verdict.outcome, verdict.message[:300], file=sys.stderr
                        )

        workers.append(_fork(work))
    told = time.monotonic()
    while workers:
        ended, _ = os.waitpid(workers[0], os.WNOHANG)
        workers = workers[1:] if ended else workers
        if time.monotonic() > told + 60:
            told = time.monotonic()
            done = sum(path.read_bytes().count(b"\n") for path in base.glob("verdicts-*"))
            print(f"damage: {done} of {len(damages)}", file=sys.stderr, flush=True)
        time.sleep(1.0 if len(damages) > QUICK else 0.1)
    lines = [
        line for path in sorted(base.glob("verdicts-*")) for line in path.read_bytes().splitlines()
    ]
    return [msgspec.json.decode(line, type=Verdict) for line in lines]


def _judge(damage: Damage, whole: _Forked, folder: Path, made: Any, expected: Any) -> Verdict:
    """Damage a copy of the installation, and compare its answers."""
    shutil.rmtree(folder, ignore_errors=True)
    copy = _copy(whole, folder)
    inflict(folder / damage.file, damage.kind)
    try:
        answers, problem = _answers(copy, made), ""
    except (AssertionError, httpx.HTTPError) as error:
        answers, problem = None, str(error) or type(error).__name__
    log = (folder / "server.log").read_text(errors="replace")
    said = problem + log
    path = Path(damage.file)
    if copy.died or "Traceback" in said:
        return Verdict(damage, "died", f"{copy.died} {said[-2000:]}")
    if answers == expected:
        return Verdict(damage, "same", "")
    names = [path.name, path.stem.replace(".", " ")] if path.suffix == ".key" else [path.name]
    if path.parent.name != "data" and path.parent.parts:
        names.append(path.parent.as_posix().removeprefix("data/"))
    named = any(name in said for name in names)
    if answers is None:
        return Verdict(damage, "refused" if named else "unnamed", said[-2000:])
    parts = ", ".join(name for name in expected if answers[name] != expected[name])
    return Verdict(damage, "told" if named else "silent", f"{parts}: {said[-1000:]}")


def _keep(verdicts: Sequence[Verdict]) -> None:
    CRASHES.mkdir(parents=True, exist_ok=True)
    lines = [f"{it.outcome} {it.damage.kind} {it.damage.file}: {it.message!r}" for it in verdicts]
    (CRASHES / "damage.txt").write_text("\n".join(sorted(lines)) + "\n")


def _answers(installation: _Forked, made: Any) -> Any:
    with installation.serving(made["key"]) as http:
        answers = _read_all(installation, http, made)
    return json.loads(json.dumps(answers))


def _copy(whole: _Forked, folder: Path) -> _Forked:
    shutil.copytree(whole.folder, folder, ignore=shutil.ignore_patterns("backup", "server.log"))
    return _Forked(folder)


class _Forked(Installation):  # type: ignore[misc]
    """An installation whose commands are forks of this process, which has imported the product."""

    died = ""

    def __init__(self, folder: Path) -> None:
        """Use the installation in a directory."""
        super().__init__(folder, {"TACTFUL_ONLINE__KIND": "engine"})

    def command(self, *arguments: object) -> str:
        """Run a command in a fork; return its standard output."""
        output = self.folder / "output"
        child = self._start(list(map(str, arguments)), output)
        code = self._wait(child, 120)
        text: str = output.read_text(errors="replace")
        assert code == 0, f"{arguments}: {text[-2000:]}"
        return text

    @contextlib.contextmanager
    def serving(self, key: str, **settings: str) -> Iterator[httpx.Client]:
        """Run the server in a fork; yield a client."""
        output = self.folder / "address"
        output.unlink(missing_ok=True)
        child: int | None = self._start(["serve", "--json"], output)
        assert child is not None
        try:
            end = time.monotonic() + _READY_S
            while not output.read_bytes().endswith(b"\n") if output.exists() else True:
                if (code := self._ended(child)) is not None:
                    child = None
                    raise AssertionError(f"the server ended with {code}")
                assert time.monotonic() < end, self._hangs("the server does not start")
                time.sleep(0.02)
            headers = {"Authorization": f"Bearer {key}"}
            url = json.loads(output.read_bytes().splitlines()[0])["url"]
            with httpx.Client(base_url=url, headers=headers, timeout=60, verify=False) as http:
                while (ready := http.get("/readyz")).status_code != 200:
                    assert time.monotonic() < end, f"not ready: {ready.text}"
                    time.sleep(0.02)
                yield http
        finally:
            if child is not None:
                if self._ended(child) is None:
                    os.kill(child, signal.SIGTERM)
                    self._wait(child, 60)
                elif not self.died:
                    self.died = "the server ended"

    def _hangs(self, text: str) -> str:
        self.died = text
        return text

    def _start(self, arguments: list[str], output: Path) -> int:
        def work() -> None:
            from tactful.cli.main import main

            os.chdir(self.folder)
            os.environ.update(self._environment)
            flags = os.O_CREAT | os.O_WRONLY
            os.dup2(os.open(output, flags | os.O_TRUNC), 1)
            os.dup2(os.open(self.folder / "server.log", flags | os.O_APPEND), 2)
            main(arguments)

        return _fork(work)

    def _wait(self, child: int, seconds: float) -> int:
        end = time.monotonic() + seconds
        while (code := self._ended(child)) is None:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                self._hangs(f"no end after {seconds:g} s")
                return -9
            time.sleep(0.01)
        return code

    def _ended(self, child: int) -> int | None:
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            return None
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            self.died = f"signal {-code}"
        return code


def _fork(work: Callable[[], object]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    return child or _run(work)


def _run(work: Callable[[], object]) -> NoReturn:
    code = 70
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
