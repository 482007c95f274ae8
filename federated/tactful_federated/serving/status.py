"""Status of a run, read from its directory without changing it, also while a process uses it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from tactful_federated.core.invitation import Invitation, Tier, read_invitation
from tactful_federated.core.plan import TrainingPlan
from tactful_federated.errors import CheckpointError, SettingsError
from tactful_federated.serving.rounds import LiveView, visible_sums
from tactful_privacy.decoding import DECODE_ERRORS

_PARTS = ("rounds", "evaluations")

NextRound = Literal["devices", "start", "never"]
"""Condition of the next round: devices that are online, or a start of the server first, or never,
since all releases of the plan are made."""


@dataclass(frozen=True)
class EvaluationStatus:
    """Evaluations on the devices of a run; their epsilon adds to that of training.

    Attributes:
        made: Number of evaluations so far.
        planned: Number of evaluations of the plan.
        epsilon: Privacy loss of one device if none follows.
        epsilon_left: Remainder of the plan's epsilon.
    """

    made: int
    planned: int
    epsilon: float
    epsilon_left: float


@dataclass(frozen=True)
class RunStatus:
    """Status of a private run. All values are public, as those of `LiveView`.

    Attributes:
        run: Name of the run; that of the directory for a simulation.
        tier: Server's view of updates.
        simulated: Whether the devices are simulated.
        running: Whether a process leads rounds now.
        round: Number of completed rounds.
        releases: Number of rounds that changed the model.
        planned: Number of releases of the plan.
        epsilon: Privacy loss of one device if the run ends here.
        epsilon_left: Remainder of the plan's epsilon.
        delta: Delta of that loss.
        completed_at: Time of the end of the last round, epoch seconds; None before the first.
        seconds: Duration of the last round; None if it is not recorded.
        reason: Reason why the last round was void; else empty.
        next_round: Condition of the next round.
        needs: Number of devices that the next round needs, online and eligible.
        rests: Number of latest releases in which an eligible device took no part.
        published: Whether the model of the run is published.
        evaluations: Evaluations of models on devices; None if none are planned.
    """

    run: str
    tier: Tier
    simulated: bool
    running: bool
    round: int
    releases: int
    planned: int
    epsilon: float
    epsilon_left: float
    delta: float
    completed_at: float | None
    seconds: float | None
    reason: str
    next_round: NextRound
    needs: int
    rests: int
    published: bool
    evaluations: EvaluationStatus | None = None


def read_status(directory: Path) -> RunStatus:
    """Read the status of the run of `serve_rounds`, `serve_buffered` or `simulate_privately`.

    Raises:
        SettingsError: The directory has no run, or files of two runs.
        CheckpointError: Its checkpoint or ledger is damaged.
    """
    if not directory.is_dir():
        raise SettingsError(f"{directory} is no directory: give that of a training server")
    if (directory / "request.json").exists():
        raise SettingsError(f"{directory} belongs to a device: give that of the training server")
    if (directory / "invitation.json").exists():
        return _served(directory, read_invitation(directory / "invitation.json"))
    parent = directory.absolute().parent
    if directory.name in _PARTS and (parent / "invitation.json").exists():
        raise SettingsError(f"{directory} is a part of a run: give {parent}")
    if (directory / "plan.json").exists():
        return _simulated(directory)
    raise SettingsError(
        f"{directory} has no run: it has neither invitation.json nor plan.json; give the directory"
        " of `tactful federated serve` or `simulate`"
    )


def is_led(rounds: Path) -> bool:
    """Return whether a process holds the lock of a run.

    It takes the lock for an instant; a server that starts in this instant is refused.
    """
    try:
        descriptor = os.open(rounds / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _served(directory: Path, invitation: Invitation) -> RunStatus:
    rounds, view = directory / "rounds", _live_view(directory / "live.json")
    if (rounds / "plan.json").exists() and _plan(rounds / "plan.json") != invitation.plan:
        raise SettingsError(
            f"{directory} has files of two runs: the plans of invitation.json and rounds/plan.json"
            " differ; restore the files of one"
        )
    if view is not None and (view.run, view.tier) != (invitation.run, invitation.tier):
        raise SettingsError(
            f"{directory} has files of two runs: invitation.json is of {invitation.run!r} with tier"
            f" {invitation.tier}, live.json of {view.run!r} with tier {view.tier}; restore the"
            " files of one"
        )
    status = _status(
        rounds,
        invitation.plan,
        view=view,
        about=(invitation.run, invitation.tier, False),
        published=(directory / "model").exists(),
    )
    return replace(status, evaluations=_evaluations(directory))


def _evaluations(directory: Path) -> EvaluationStatus | None:
    path = directory / "evaluation.json"
    if not path.exists():
        return None
    asked = read_invitation(path)
    number, made, _ = _progress(directory / "evaluations", asked.plan)
    spent, left = _epsilon(asked.plan, asked.tier, number, made)
    return EvaluationStatus(made, asked.plan.rounds, spent, left)


def _simulated(directory: Path) -> RunStatus:
    plan = _plan(directory / "plan.json")
    tier: Tier = "secret" if (directory / "devices").exists() else "clear"
    if plan.device_sigma_squared:
        tier = "noise-in-sum"
    about = directory.absolute().name, tier, True
    return _status(directory, plan, view=None, about=about, published=False)


def _status(
    rounds: Path,
    plan: TrainingPlan,
    *,
    view: LiveView | None,
    about: tuple[str, Tier, bool],
    published: bool,
) -> RunStatus:
    run, tier, simulated = about
    number, releases, completed_at = _progress(rounds, plan)
    # A kill between checkpoint and live.json leaves that of the round before.
    last = view if view is not None and view.round == number else None
    spent, left = _epsilon(plan, tier, number, releases)
    running = is_led(rounds)
    next_round: NextRound = "devices" if running else "start"
    if releases >= plan.rounds:
        next_round = "never"
    return RunStatus(
        run=run,
        tier=tier,
        simulated=simulated,
        running=running,
        round=number,
        releases=releases,
        planned=plan.rounds,
        epsilon=spent,
        epsilon_left=left,
        delta=plan.delta,
        completed_at=completed_at,
        seconds=last.seconds if last else None,
        reason=last.reason if last else "",
        next_round=next_round,
        needs=plan.minimum_reports,
        rests=min(plan.separation - 1, releases),
        published=published,
    )


def _epsilon(plan: TrainingPlan, tier: Tier, number: int, releases: int) -> tuple[float, float]:
    """Return the spent epsilon and the remainder of that of the plan."""
    spent = round(plan.epsilon_after(visible_sums(tier, number, releases)), 6)
    return spent, max(0.0, round(plan.epsilon - spent, 6))


def _progress(rounds: Path, plan: TrainingPlan) -> tuple[int, int, float | None]:
    """Return completed rounds, releases, and the time of the checkpoint, None before a round."""
    path, ledger = rounds / "state.npz", rounds / "participation.db"
    before = _recorded(ledger)
    try:
        completed_at: float | None = path.stat().st_mtime
        with np.load(path, allow_pickle=False) as file:
            number, releases, _ = (int(n) for n in file["counts"].tolist())
            size = file["weights"].size
    except FileNotFoundError:
        number, releases, size, completed_at = 0, 0, plan.parameters, None
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read: be the user of the server") from error
    except Exception as error:  # zipfile and numpy may raise anything
        raise CheckpointError(f"{path} is damaged: restore it, or begin a new run") from error
    if size != plan.parameters:
        raise CheckpointError(
            f"{path} has {size} parameters, the plan {plan.parameters}: restore the newest copy"
        )
    # The ledger is written last, and a round may end between the two reads of it.
    if not before <= releases <= _recorded(ledger) + 1:
        raise CheckpointError(
            f"{path} has {releases} releases, and the ledger beside it another number: restore the"
            " newest copy of both"
        )
    return number, releases, completed_at if number else None


def _recorded(ledger: Path) -> int:
    """Return the number of releases in a ledger, 0 without one."""
    if not ledger.exists():
        return 0
    try:
        # Not read-only: after a kill SQLite has to roll back first, as the next start would.
        address = f"{ledger.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, uri=True)) as file:
            row = file.execute("SELECT count FROM released").fetchone()
    except sqlite3.Error as error:
        raise CheckpointError(
            f"{ledger} cannot be read: {error}; restore the newest copy of its directory"
        ) from error
    return int(row[0]) if row else 0


def _plan(path: Path) -> TrainingPlan:
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrainingPlan)
    except (OSError, *DECODE_ERRORS) as error:
        raise CheckpointError(f"{path} is no plan of a run: {error}; restore it") from error


def _live_view(path: Path) -> LiveView | None:
    """Return the last view of a run; it only adds to the checkpoint."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=LiveView)
    except FileNotFoundError:
        return None
    except (OSError, *DECODE_ERRORS) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}; delete it, the next round writes it again"
        ) from error
