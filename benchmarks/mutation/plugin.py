"""Pytest plugin of the runs for mutants: records which tests run each line, or runs chosen tests.

The environment variable `JOB` names a JSON file::

    {"output": "…/result.json", "source": "…/tactful_privacy"}       record the lines of a package
    {"output": "…/result.json", "tests": ["tests/…::test_a", …]}     run these, in this order
"""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import coverage
import hypothesis
import pytest

JOB = "TACTFUL_MUTATION_JOB"


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin of the job, and turn off Hypothesis's search for smaller examples."""
    job = json.loads(Path(os.environ[JOB]).read_text(encoding="utf-8"))
    output = Path(job["output"])
    hypothesis.settings.register_profile(
        "mutation",
        parent=hypothesis.settings.get_profile(hypothesis.settings.get_current_profile_name()),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        report_multiple_bugs=False,
    )
    hypothesis.settings.load_profile("mutation")
    if "source" in job:
        config.pluginmanager.register(Recorder(Path(job["source"]), output))
    else:
        config.pluginmanager.register(Selection(job["tests"], output))


class Recorder:
    """Records the lines of a package that each test runs, and the result and time of each test.

    Fixtures shared by tests run in the context of one of them. Their lines are recorded under the
    fixture, and count for every test that uses it.
    """

    def __init__(self, source: Path, output: Path) -> None:
        """Start to trace the files below `source`; the output is written at the end."""
        self._source = source
        self._output = output
        self._tests: dict[str, dict[str, Any]] = {}
        self._users: defaultdict[str, list[str]] = defaultdict(list)
        self._context = ""
        self._coverage = coverage.Coverage(data_file=None, config_file=False, source=[str(source)])
        self._coverage.start()

    def _enter(self, context: str) -> str:
        previous, self._context = self._context, context
        self._coverage.switch_context(context)
        return previous

    def _clear_caches(self) -> None:
        """Let every test run the lines of cached functions itself."""
        for module in list(sys.modules.values()):
            if (getattr(module, "__file__", None) or "").startswith(str(self._source)):
                for value in list(vars(module).values()):
                    if callable(clear := getattr(value, "cache_clear", None)):
                        clear()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Trace in the context of the test."""
        self._tests[item.nodeid] = {"seconds": 0.0, "passed": True}
        for name in getattr(item, "fixturenames", ()):
            self._users[name].append(item.nodeid)
        self._clear_caches()
        self._enter(item.nodeid)
        try:
            return (yield)
        finally:
            self._enter("")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Trace in the context of the fixture when tests share it."""
        if fixturedef.scope == "function":
            return (yield)
        previous = self._enter(f"fixture {fixturedef.argname}")
        try:
            return (yield)
        finally:
            self._enter(previous)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up the time of a test."""
        test = self._tests[report.nodeid]
        test["seconds"] += report.duration
        test["passed"] &= not report.failed

    def pytest_sessionfinish(self) -> None:
        """Write the tests and, for each file and line, the tests that run it."""
        self._coverage.stop()
        data = self._coverage.get_data()
        lines: dict[str, dict[int, list[str]]] = {}
        for file in data.measured_files():
            name = str(Path(file).relative_to(self._source))
            lines[name] = {
                line: sorted({test for context in contexts for test in self._tests_of(context)})
                for line, contexts in data.contexts_by_lineno(file).items()
            }
        record = {"tests": self._tests, "lines": lines}
        self._output.write_text(json.dumps(record), encoding="utf-8")

    def _tests_of(self, context: str) -> list[str]:
        if context.startswith("fixture "):
            return self._users[context.removeprefix("fixture ")]
        return [context] if context else []


class Selection:
    """Runs the chosen tests in the given order, and writes the first that fails."""

    def __init__(self, tests: list[str], output: Path) -> None:
        """Take the ids of the tests."""
        self._order = {test: place for place, test in enumerate(tests)}
        self._output = output

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out all other tests."""
        items[:] = sorted(
            (item for item in items if item.nodeid in self._order),
            key=lambda item: self._order[item.nodeid],
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write the id of a test that failed."""
        if report.failed:
            self._output.write_text(json.dumps({"failed": report.nodeid}), encoding="utf-8")
