"""``tactful privacy audit``: what it writes, and what its exit codes mean.

Audits are seeded: a right pipeline fails one with probability 1e-6 at most.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import tactful_privacy.audit.audit
from tactful.cli import privacy as privacy_cli
from tactful.cli.main import main
from tactful_privacy.audit.audit import AuditReport, Effort, audit
from tactful_privacy.audit.pipeline import Pipeline
from tactful_privacy.audit.planted import planted_bugs

TINY = Effort(
    canaries=3000, canaries_of_totals=500, canaries_of_bug=2_500, streams=15, draws=20_000, keys=300
)


SeededNoise = Callable[[int], AbstractContextManager[None]]


def two_bugs(*of: Any) -> list[Pipeline]:
    """Some planted bugs that a few trials find."""
    return [bug for bug in planted_bugs(*of) if bug.name in ("scale 50 % low", "key leak")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["privacy", "audit", *map(str, arguments)])


@pytest.fixture(scope="module")
def audited(seeded_noise: SeededNoise) -> tuple[AuditReport, Result]:
    """An audit by the command, with few trials: its report, and the result of the command."""
    reports: list[AuditReport] = []

    def noted(*arguments: Any, **options: Any) -> AuditReport:
        reports.append(audit(*arguments, **options))
        return reports[0]

    with seeded_noise(2), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tactful_privacy.audit.audit, "planted_bugs", two_bugs)
        patch.setattr(privacy_cli, "QUICK", TINY)
        patch.setattr(privacy_cli, "audit", noted)
        result = run("--quick", "--cap", "2", "--epsilon", "1.5", "--json")
    assert result.exit_code == 0, result.output
    return reports[0], result


@pytest.fixture
def found(audited: tuple[AuditReport, Result]) -> AuditReport:
    return audited[0]


@pytest.mark.slow
def test_the_real_audit_runs(audited: tuple[AuditReport, Result]) -> None:
    document = json.loads(audited[1].stdout)
    assert Fraction(document["epsilon"]) == Fraction(3, 2)
    assert document["epsilon_lower_bound"] <= 1.5


def answering(monkeypatch: pytest.MonkeyPatch, report: AuditReport) -> list[tuple[object, ...]]:
    """Let the command find what was found before; returns what it asked for."""
    asked: list[tuple[object, ...]] = []

    def answer(cap: int, epsilon: str, effort: Effort, *, progress: object) -> AuditReport:
        asked.append((cap, epsilon, effort))
        return report

    monkeypatch.setattr(privacy_cli, "audit", answer)
    return asked


@pytest.mark.slow
def test_it_reports_in_words_and_in_pictures(
    found: AuditReport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = answering(monkeypatch, found)
    pictures = tmp_path / "plots"
    result = run("--quick", "--cap", 5, "--canaries", 2_000, "--plots", pictures)
    assert result.exit_code == 0, result.output
    assert "Claimed: epsilon 3/2 for one user and one UTC day, cap 2." in result.stdout
    assert {path.name for path in pictures.iterdir()} == {"epsilon.png", "noise.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures.iterdir())
    assert asked == [(5, "1", replace(tactful_privacy.audit.audit.QUICK, canaries=2_000))]


def test_json_is_the_only_output(found: AuditReport, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, found)
    assert json.loads(run("--json").stdout) == json.loads(json.dumps(found.to_dict()))
    assert asked[0][2] == tactful_privacy.audit.audit.THOROUGH


def test_exit_codes(found: AuditReport, monkeypatch: pytest.MonkeyPatch) -> None:
    leaking = replace(found, real=found.planted[:1])
    answering(monkeypatch, leaking)
    assert run("--quick").exit_code == 7
    blind = replace(found, planted=(found.real[0], *found.planted))
    answering(monkeypatch, blind)
    result = run("--quick")
    assert result.exit_code == 5
    assert "MISSED  panes" in result.stdout


@pytest.mark.parametrize("epsilon", ["0", "-1", "nan", "one"])
def test_an_impossible_claim_is_wrong_usage(epsilon: str) -> None:
    result = run("--quick", "--epsilon", epsilon)
    assert result.exit_code == 2
    assert "epsilon" in result.stderr


def test_it_needs_no_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside other files, as those of the demo, it opens nothing unless it keeps the result."""
    (tmp_path / "tactful-data" / "demo").mkdir(parents=True)
    (tmp_path / "tactful-data").chmod(0o755)  # whatever the umask says
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(privacy_cli, "audit", lambda *_, **__: pytest.fail("it began the work"))
    kept = run("--quick", "--keep")
    assert kept.exit_code == 1 and "no data directory" in kept.output
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run("--quick", "--epsilon", "0").exit_code == 2
