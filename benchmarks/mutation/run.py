"""Share of mutants that fail a test of their package, in a seeded sample of places.

Each mutant changes one operator, constant or condition in a copy of its package, and only the tests
that run the changed line are run. A mutant is killed when one of them fails, or when they take
several times their usual time. Lines that run at import count as run by all tests of the module.

The results are kept in `reports/mutation`: a run that was stopped goes on where it was. A result
holds as long as the module and the files of its tests stay the same.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, main, share_figure
from benchmarks.mutation.mutants import Mutant, Place, places, sample
from benchmarks.mutation.plugin import JOB

_ROOT = Path(__file__).resolve().parents[2]
_REASONS = Path(__file__).with_name("survivors.toml")
_STATE = _ROOT / "reports" / "mutation"

_SEED = 1
_MUTANTS = 110
"""Mutants of each package."""

_BUDGET_S = 7200
"""Seconds after which no further mutant is started."""

_START_S, _FACTOR = 30, 4
"""Time limit of a test and of a mutant: seconds, and the usual time under coverage times this."""

# Source roots of the project: the mutated package comes before, all others from here.
_SOURCES = ("platform", "privacy", "streaming", "federated", "bandits", "ui")


@dataclass(frozen=True)
class Target:
    """One package to mutate and its tests.

    Attributes:
        name: the package's name in figures.
        package: folder of the package.
        tests: folders of its tests.
        folders: the sub-packages to mutate; all modules when empty.
        root: folder in which pytest runs.
    """

    name: str
    package: Path
    tests: Sequence[Path]
    folders: Sequence[str] = ()
    root: Path = _ROOT


_STREAMING_TESTS = _ROOT / "tests" / "streaming"
_ENGINE = ("engine", "windows", "patterns", "identity")

_TARGETS = (
    Target("privacy", _ROOT / "privacy" / "tactful_privacy", [_ROOT / "tests" / "privacy"]),
    Target("bandits", _ROOT / "bandits" / "tactful_bandits", [_ROOT / "tests" / "bandits"]),
    # The numba kernels lie in `kernels`, where no line can be traced, and are left out.
    Target(
        "engine",
        _ROOT / "streaming" / "tactful_streaming",
        [_STREAMING_TESTS / folder for folder in (*_ENGINE, "differential")],
        _ENGINE,
    ),
)

_QUICK = Target(
    "privacy",
    _ROOT / "privacy" / "tactful_privacy",
    [_ROOT / "tests" / "privacy" / "ledger"],
    ["ledger"],
)


@dataclass(frozen=True)
class Verdict:
    """The result of one mutant.

    Attributes:
        id: of the mutant.
        digest: of its module and the files of its tests.
        outcome: `killed`, `time-out` when the process had to be ended, `survived`, or `untested`
            when no test runs the line.
        seconds: duration of its tests.
        change: the line before and after.
        test: the test that failed; empty when none did or the tests could not be collected.
    """

    id: str
    digest: str
    outcome: str
    seconds: float
    change: str
    test: str = ""

    @property
    def killed(self) -> bool:
        """Whether a test failed or took too long."""
        return self.outcome in {"killed", "time-out"}


@dataclass(frozen=True)
class LineMap:
    """Lines of a package and the tests that run them.

    Attributes:
        seconds: duration of each test that passes.
        lines: the tests of each line of each file, by the path below the package.
    """

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[int, frozenset[str]]]

    def tests_of(self, file: str, place: Place) -> list[str]:
        """The tests that run a place, those of quick files first."""
        lines = self.lines.get(file, {})
        if place.at_import:
            tests = {test for of_line in lines.values() for test in of_line}
        else:
            # Only some lines of a statement are traced: the nearest one before.
            traced = (lines[line] for line in reversed(place.lines) if lines.get(line))
            tests = set(next(traced, ()))
        tests &= self.seconds.keys()
        of_file: dict[str, float] = {}
        for test in tests:
            path = test.partition("::")[0]
            of_file[path] = of_file.get(path, 0.0) + self.seconds[test]
        # `seconds` is in the order of collection.
        order = {test: place for place, test in enumerate(self.seconds)}
        return sorted(tests, key=lambda test: (of_file[test.partition("::")[0]], order[test]))


class Sandbox:
    """A copy of a package that comes before the installed one in the processes of pytest."""

    def __init__(self, target: Target, folder: Path) -> None:
        """Copy the package into `folder`."""
        self._target = target
        self._folder = folder
        self.package = folder / "source" / target.package.name
        unneeded = shutil.ignore_patterns("__pycache__")
        shutil.copytree(target.package, self.package, ignore=unneeded)

    def record(self, test_file: Path) -> dict[str, Any]:
        """Run a file of tests, and return its tests and the lines that they run.

        Raises:
            RuntimeError: if pytest could not collect the file.
        """
        code, record = self._pytest({"source": str(self.package)}, [str(test_file)], None)
        if code not in (0, 1, 5) or not record:
            raise RuntimeError(f"pytest ended with {code} on {test_file}: run it to see why")
        return record

    def judge(
        self, mutant: Mutant | None, tests: Sequence[str], seconds: Mapping[str, float]
    ) -> tuple[str, str]:
        """Run tests against a mutant, or against the unchanged package.

        Args:
            mutant: None for the unchanged package.
            tests: ids of the tests, in this order.
            seconds: the usual time of each test.

        Returns:
            The outcome as in `Verdict`, and the test that failed.
        """
        files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
        of_test = _START_S + _FACTOR * max(seconds[test] for test in tests)
        of_all = _START_S + _FACTOR * sum(seconds[test] for test in tests)
        arguments = ["-x", f"--timeout={of_test:.0f}", *files]
        with self._mutated(mutant):
            # A loop in machine code ends only with its process.
            code, record = self._pytest({"tests": list(tests)}, arguments, of_test + of_all)
        if code is None:
            return "time-out", ""
        return "survived" if code == 0 else "killed", record.get("failed", "")

    @contextmanager
    def _mutated(self, mutant: Mutant | None) -> Iterator[None]:
        if mutant is None:
            yield
            return
        original = mutant.place.path
        copy = self.package / original.relative_to(self._target.package)
        copy.write_text(mutant.source, encoding="utf-8")
        try:
            yield
        finally:
            shutil.copy2(original, copy)

    def _pytest(
        self, job: Mapping[str, Any], arguments: Sequence[str], timeout: float | None
    ) -> tuple[int | None, dict[str, Any]]:
        """Run pytest with the plugin; the exit code is None when the time was over."""
        output = self._folder / "result.json"
        output.unlink(missing_ok=True)
        job_file = self._folder / "job.json"
        job_file.write_text(json.dumps({**job, "output": str(output)}), encoding="utf-8")
        roots = [self.package.parent, _ROOT, *(_ROOT / source for source in _SOURCES)]
        environment = os.environ | {
            JOB: str(job_file),
            "COVERAGE_CORE": "ctrace",  # the only one with contexts
            "NUMBA_CACHE_DIR": str(self._folder / "numba"),
            "PYTHONPATH": os.pathsep.join(map(str, roots)),
            # The byte code of a mutant must not be taken for that of its module.
            **({} if "source" in job else {"PYTHONDONTWRITEBYTECODE": "1"}),
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.mutation.plugin"]
        command += ["-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no"]
        command += [f"--basetemp={self._folder / 'pytest'}", *arguments]
        process = subprocess.Popen(
            command,
            cwd=self._target.root,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        code: int | None
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # Servers that a test started may outlive it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        record = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
        return code, record


def judge(
    target: Target,
    count: int,
    state: Path,
    equivalent: Mapping[str, str],
    deadline: float,
) -> tuple[list[Verdict], int]:
    """Judge a sample of the mutants of a package, as far as the time allows.

    Args:
        target: the package and its tests.
        count: the number of mutants.
        state: folder of the results, those of former runs included.
        equivalent: ids of mutants to leave out, with the reason.
        deadline: monotonic time after which nothing is started.

    Returns:
        The results, and the number of mutants that are left for another run.

    Raises:
        RuntimeError: if tests cannot be collected or fail without a mutation.
    """
    state.mkdir(parents=True, exist_ok=True)
    modules = sorted(target.package.rglob("*.py"))
    all_places = _places(target, modules)
    _warn_of_unknown(all_places, equivalent)
    mutants = sample(all_places, count, _SEED, equivalent)
    journal = state / "results.jsonl"
    known = _read_results(journal)
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory() as folder:
        sandbox = Sandbox(target, Path(folder))
        line_map = _line_map(target, sandbox, modules, state, deadline)
        if line_map is None:
            return [], len(mutants)
        checked = False
        for number, mutant in enumerate(mutants):
            file = str(mutant.place.path.relative_to(target.package))
            tests = line_map.tests_of(file, mutant.place)
            digest = _digest([mutant.place.path, *_files(target, tests)])
            verdict = known.get((mutant.id, digest))
            if verdict is None:
                if time.monotonic() > deadline:
                    return verdicts, len(mutants) - number
                if not checked and tests:
                    _check_unchanged(sandbox, tests[:20], line_map.seconds)
                    checked = True
                verdict = _verdict(sandbox, mutant, tests, digest, line_map.seconds)
                with journal.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(verdict.__dict__) + "\n")
                print(f"{verdict.outcome}: {mutant.id}", file=sys.stderr, flush=True)
            verdicts.append(verdict)
    return verdicts, 0


def _places(target: Target, modules: Sequence[Path]) -> list[Place]:
    chosen = [
        path
        for path in modules
        if not target.folders or path.relative_to(target.package).parts[0] in target.folders
    ]
    return [place for path in chosen for place in places(path, _module(target, path))]


def _warn_of_unknown(all_places: Sequence[Place], ids: Iterable[str]) -> None:
    """Print the ids of mutants whose module no longer has the place."""
    names = {(place.module, place.function, f"{place.text}#{place.number}") for place in all_places}
    modules = {place.module for place in all_places}
    for id in ids:
        module, function, _, text = id.split(":", 3)
        if module in modules and (module, function, text) not in names:
            print(f"{_REASONS.name}: no such place any more: {id}", file=sys.stderr)


def _verdict(
    sandbox: Sandbox,
    mutant: Mutant,
    tests: Sequence[str],
    digest: str,
    usual: Mapping[str, float],
) -> Verdict:
    if not tests:
        return Verdict(mutant.id, digest, "untested", 0.0, mutant.change)
    began = time.monotonic()
    outcome, test = sandbox.judge(mutant, tests, usual)
    seconds = round(time.monotonic() - began, 1)
    return Verdict(mutant.id, digest, outcome, seconds, mutant.change, test)


def _check_unchanged(sandbox: Sandbox, tests: Sequence[str], usual: Mapping[str, float]) -> None:
    outcome, test = sandbox.judge(None, tests, usual)
    if outcome != "survived":
        raise RuntimeError(f"without a mutation the tests end with {outcome}: {test or tests[0]}")


def _line_map(
    target: Target, sandbox: Sandbox, modules: Sequence[Path], state: Path, deadline: float
) -> LineMap | None:
    """Record every file of tests that no former run recorded; None when the time is over."""
    seconds: dict[str, float] = {}
    lines: dict[str, dict[int, set[str]]] = {}
    folder = state / "lines"
    folder.mkdir(exist_ok=True)
    for file in sorted(file for tests in target.tests for file in tests.rglob("test_*.py")):
        kept = folder / f"{_digest([file, *modules])}.json"
        if not kept.exists():
            if time.monotonic() > deadline:
                return None
            print(f"lines of {file.relative_to(target.root)}", file=sys.stderr, flush=True)
            record = sandbox.record(file)
            unfinished = kept.with_suffix(".new")
            unfinished.write_text(json.dumps(record), encoding="utf-8")
            unfinished.replace(kept)
        record = json.loads(kept.read_text(encoding="utf-8"))
        for test, result in record["tests"].items():
            if result["passed"]:
                seconds[test] = result["seconds"]
        for name, of_file in record["lines"].items():
            of_module = lines.setdefault(name, {})
            for line, tests in of_file.items():
                of_module.setdefault(int(line), set()).update(tests)
    frozen = {
        name: {line: frozenset(tests) for line, tests in of_module.items()}
        for name, of_module in lines.items()
    }
    return LineMap(seconds, frozen)


def _read_results(journal: Path) -> dict[tuple[str, str], Verdict]:
    results: dict[tuple[str, str], Verdict] = {}
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            verdict = Verdict(**json.loads(line))
            results[verdict.id, verdict.digest] = verdict
    return results


def _module(target: Target, path: Path) -> str:
    parts = path.relative_to(target.package.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def _files(target: Target, tests: Sequence[str]) -> list[Path]:
    return sorted({target.root / test.partition("::")[0] for test in tests})


def _digest(files: Sequence[Path]) -> str:
    """Hash of the names and contents of files, and of the services that tests can reach."""
    services = sorted(name for name in os.environ if name.startswith("TACTFUL_TEST_"))
    digest = hashlib.sha256("".join(services).encode())
    for file in files:
        digest.update(f"{file.name}:{file.stat().st_size}:".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def read_reasons(path: Path, kind: str) -> dict[str, str]:
    """Read the ids and reasons of the `equivalent` or the `accepted` mutants.

    Raises:
        ValueError: if an entry has no reason.
    """
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get(kind, [])
    for entry in entries:
        if not entry.get("reason"):
            raise ValueError(f"{path}: {entry.get('id')} has no reason")
    return {entry["id"]: entry["reason"] for entry in entries}


def figures(results: Mapping[str, tuple[Sequence[Verdict], int]]) -> list[Figure]:
    """The numbers of mutants and the shares killed, of all packages and of each."""
    everything = [verdict for verdicts, _ in results.values() for verdict in verdicts]
    left = sum(left for _, left in results.values())
    note = f"{left} more are left for another run" if left else ""
    rows = [Figure("mutants", len(everything), "1", note=note), _share("", everything)]
    return rows + [_share(f"_{name}", verdicts) for name, (verdicts, _) in results.items()]


def _share(suffix: str, verdicts: Sequence[Verdict]) -> Figure:
    name, runs = f"mutants_killed_share{suffix}", len(verdicts)
    if not runs:
        return Figure(name, None, "1", note="no mutant was judged in the time")
    killed = sum(verdict.killed for verdict in verdicts)
    note = f"95 % interval; {runs - killed} survived, listed in reports/mutation/survivors.txt"
    return share_figure(name, killed, runs, note)


def run(quick: bool, only: str | None = None) -> list[Figure]:
    """Judge the sample, or with `quick` a few mutants of one sub-package."""
    deadline = time.monotonic() + _BUDGET_S
    equivalent = read_reasons(_REASONS, "equivalent")
    accepted = read_reasons(_REASONS, "accepted")
    targets = [_QUICK] if quick else [t for t in _TARGETS if only in (None, t.name)]
    count = 5 if quick else _MUTANTS
    results = {
        target.name: judge(target, count, _STATE, equivalent, deadline) for target in targets
    }
    survivors = [
        f"{verdict.outcome}: {verdict.id}\n{verdict.change}\n"
        f"{accepted.get(verdict.id, 'not explained')}\n"
        for verdicts, _ in results.values()
        for verdict in verdicts
        if not verdict.killed
    ]
    (_STATE / "survivors.txt").write_text("\n".join(survivors), encoding="utf-8")
    print("\n".join(survivors))
    return figures(results)


if __name__ == "__main__":
    main("mutation", run, parts=[target.name for target in _TARGETS])
