"""Rounds of a deployment: invited, led over a SuperLink, kept, and shown while they run."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tactful_federated.certificates import secret_file
from tactful_federated.checkpoint import write_whole
from tactful_federated.collectors import ClearCollector, SecureCollector
from tactful_federated.compression import Encoding
from tactful_federated.errors import SettingsError, missing_extra, require
from tactful_federated.invitation import Invitation, Tier, read_invitation, save_invitation
from tactful_federated.model_package import pack_model
from tactful_federated.optimizer import Optimizer
from tactful_federated.plan import Wishes, plan_noise_in_sum, plan_training
from tactful_federated.private_rounds import (
    Collector,
    Outcome,
    PrivateTraining,
    wait_for_devices,
)
from tactful_federated.secure_messages import FEWEST_DEVICES
from tactful_federated.tokens import Vocabulary
from tactful_federated.trainer_settings import TrainerSettings
from tactful_federated.vectors import Vector

try:
    from flwr.serverapp import Grid
except ModuleNotFoundError as error:
    raise missing_extra(error) from error

_log = logging.getLogger(__name__)


class LiveView(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it stands; written after every round.

    Attributes:
        run: Its name.
        tier: What the server sees.
        round: Rounds so far.
        releases: Of them, those that moved the model.
        planned: Releases in all.
        epsilon: Spent by any one device if the run ends with this release; the plan's at its end.
            Where devices add the noise, void rounds count: the server may have seen their sums.
        delta: That goes with it.
        reason: Why the last round moved nothing, otherwise empty.
        seconds: The last round took.
    """

    run: str
    tier: Tier
    round: int
    releases: int
    planned: int
    epsilon: float
    delta: float
    reason: str
    seconds: float


def invite(
    directory: Path,
    wishes: Wishes,
    categories: list[str],
    *,
    run: str,
    tier: Tier,
    learning_rate: float = 1.0,
    proximal: float = 0.0,
    embedding: int = 32,
    hidden: int = 32,
) -> Invitation:
    """Plan a run and write its invitation, or find the one that it began with.

    Args:
        directory: Of the server. The enrolling authority's key and the models' are made here; take
            the first to other hands before a population relies on a tier that hides updates.
        wishes: What the run is to be; its `parameters` follow from the catalogue and the widths.
        categories: The public catalogue.
        run: Name of the run.
        tier: What the server is to see.
        learning_rate: Of a device's steps.
        proximal: How strongly devices are drawn back to what they began from; see
            `TrainerSettings`.
        embedding: Width of a token's vector in the model.
        hidden: Width of the model's LSTM state.

    Raises:
        SettingsError: The wishes make no plan, the model is too large for devices, or another run
            lives in the directory.
    """
    TrainerSettings(learning_rate=learning_rate, proximal=proximal)  # refused here, not on devices
    vocabulary = Vocabulary.from_catalogue(categories)
    weights = initial_weights(vocabulary, embedding=embedding, hidden=hidden)
    wishes = replace(wishes, parameters=weights.size)
    plan = plan_noise_in_sum(wishes) if tier == "noise-in-sum" else plan_training(wishes)
    if tier != "clear" and plan.minimum_reports < FEWEST_DEVICES:
        raise SettingsError(f"a secret sum is of {FEWEST_DEVICES} devices at least: raise the goal")
    path = directory / "invitation.json"
    if path.exists():  # the enrolling authority's key may be in other hands by now
        earlier = read_invitation(path)
        authority, signer = earlier.authority, earlier.signer
    else:
        authority, signer = (
            _signing_key(directory / name).public_key().public_bytes_raw()
            for name in ("authority.key", "model.key")
        )
    invitation = Invitation(
        run=run,
        tier=tier,
        plan=plan,
        categories=list(vocabulary.categories),
        authority=authority,
        signer=signer,
        learning_rate=learning_rate,
        proximal=proximal,
        embedding=embedding,
        hidden=hidden,
    )
    save_invitation(path, invitation)
    return invitation


def authority_key(directory: Path) -> Ed25519PrivateKey:
    """The enrolling authority's key.

    Raises:
        SettingsError: It is not here; a new one would enrol devices that no other device believes.
    """
    path = directory / "authority.key"
    if not path.exists():
        raise SettingsError(f"{path} is missing: enrol devices where the authority's key is kept")
    return _signing_key(path)


def initial_weights(vocabulary: Vocabulary, *, embedding: int = 32, hidden: int = 32) -> Vector:
    """Where a run begins: the same on every machine."""
    from tactful_federated.model import IntentModel

    return IntentModel(vocabulary.size, embedding=embedding, hidden=hidden, seed=7).vector()


def collector_for(
    invitation: Invitation,
    grid: Grid,
    *,
    deadline: float,
    encoding: Encoding = "float32",
    trim: float = 0.0,
) -> Collector:
    """Sums a round's updates as the tier wants it.

    Args:
        invitation: Of the run.
        grid: To the devices.
        deadline: Seconds for a round in the clear, or for each of the five exchanges of a sum.
        encoding: Of updates in the clear.
        trim: Share left out at either end of each coordinate, in the clear; see `ClearCollector`.

    Raises:
        SettingsError: A secret sum was to be encoded, though its words are as long as its modulus,
            or trimmed, though nobody sees what it is of.
    """
    if invitation.tier == "clear":
        goal = invitation.plan.report_goal
        require(
            trim == 0 or trim * goal >= 1,
            # Rounded up: what it says is not refused again.
            f"a share of {trim:g} of {goal} updates is none: trim at least"
            f" {math.ceil(1e6 / goal) / 1e6:g}",
        )
        from tactful_federated.flower import FlowerPopulation

        population = FlowerPopulation(
            grid, invitation.vocabulary, timeout=deadline, encoding=encoding
        )
        return ClearCollector(population, deadline=deadline, trim=trim)
    require(
        encoding == "float32",
        f"encoding is {encoding!r}, but the tier sums in secret, in words of 32 bits: leave it out",
    )
    require(trim == 0, "only updates in the clear can be trimmed: leave trim out")
    from tactful_federated.flower_secure import FlowerSecureTransport

    transport = FlowerSecureTransport(grid, timeout=deadline)
    return SecureCollector(transport, invitation.enrolled_by, run=invitation.run)


def serve_rounds(
    directory: Path,
    invitation: Invitation,
    collector: Collector,
    *,
    optimizer: Optimizer | None = None,
    rounds: int | None = None,
    progress: Callable[[Outcome, LiveView], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    poll: float = 1.0,
) -> Vector:
    """Lead rounds until the plan is carried out; started again, it goes on.

    While too few devices can take part it waits. After every round the directory holds
    `live.json`; at the end `weights.npy` and `model`, signed for devices.

    Args:
        directory: Of the server.
        invitation: Of the run.
        collector: Sums the updates of a round.
        optimizer: How the server steps; the same at every start.
        rounds: Stop after so many releases in all; None is the plan's number.
        progress: Called after each round.
        clock: Seconds that never go back.
        sleep: Waits for seconds.
        poll: Seconds between two looks for devices.

    Returns:
        The weights to use.

    Raises:
        CheckpointError: The directory is in use, damaged, or of another run.
    """
    plan, wanted = invitation.plan, min(rounds or invitation.plan.rounds, invitation.plan.rounds)
    training = open_run(directory, invitation, optimizer)
    try:
        while training.releases < wanted:
            wait_for_devices(
                lambda: len(training.able(collector.ids())),
                plan.minimum_reports,
                sleep=sleep,
                poll=poll,
            )
            begun = clock()
            outcome = training.run_round(collector)
            show_round(directory, invitation, outcome, clock() - begun, progress)
        publish(directory, invitation, training)
        return training.model
    finally:
        training.close()


def open_run(
    directory: Path, invitation: Invitation, optimizer: Optimizer | None = None
) -> PrivateTraining:
    """The run of an invitation, where it stopped.

    Raises:
        SettingsError: It began with another optimizer.
        CheckpointError: The directory is in use, damaged, or of another run.
    """
    optimizer = optimizer or Optimizer()
    kept, document = directory / "optimizer.json", msgspec.json.encode(asdict(optimizer))
    if not kept.exists():
        write_whole(kept, document)
    elif kept.read_bytes() != document:
        raise SettingsError(
            f"{kept} holds how the server of this run steps: keep to it, or begin a new run in"
            " another directory"
        )
    weights = initial_weights(
        invitation.vocabulary, embedding=invitation.embedding, hidden=invitation.hidden
    )
    return PrivateTraining(directory / "rounds", invitation.plan, optimizer, weights)


def epsilon_spent(invitation: Invitation, releases: int) -> float:
    """What any one device has spent of the plan's epsilon, at its delta, after some releases.

    Or after some rounds, if all of their sums count: a device's rounds are as far apart.

    The bound on the sensitivity of a device's participations is taken for as many as fit into so
    few releases, never more than the plan's; the plan's own figure is reached with the last, unless
    the plan spares participations for void rounds.
    """
    import dp_accounting

    plan = invitation.plan
    if releases == 0:
        return 0.0
    fit = min(plan.participations, 1 + (releases - 1) // max(1, plan.separation))
    if fit == plan.participations:
        return plan.epsilon
    # Sensitivity grows with the root of the participations where they do not overlap.
    multiplier = plan.noise_multiplier * (plan.participations / fit) ** 0.5
    return min(plan.epsilon, float(dp_accounting.get_epsilon_gaussian(multiplier, plan.delta)))


def show_round(
    directory: Path,
    invitation: Invitation,
    outcome: Outcome,
    seconds: float,
    progress: Callable[[Outcome, LiveView], None] | None,
) -> None:
    """Write what is shown of a run after a round, and tell `progress`."""
    view = _view(invitation, outcome, seconds)
    write_whole(directory / "live.json", msgspec.json.encode(view))
    if progress:
        progress(outcome, view)


def _view(invitation: Invitation, outcome: Outcome, seconds: float) -> LiveView:
    # Elsewhere a sum that did not become a release is shown to nobody.
    told = outcome.round if invitation.tier == "noise-in-sum" else outcome.releases
    return LiveView(
        run=invitation.run,
        tier=invitation.tier,
        round=outcome.round,
        releases=outcome.releases,
        planned=invitation.plan.rounds,
        epsilon=round(epsilon_spent(invitation, told), 6),
        delta=invitation.plan.delta,
        reason=outcome.reason,
        seconds=round(seconds, 3),
    )


def publish(directory: Path, invitation: Invitation, training: PrivateTraining) -> None:
    """Write what came of a run: its weights, and the package for devices."""
    weights = training.model
    with (directory / "weights.npy.new").open("wb") as file:
        np.save(file, weights)
        file.flush()
        os.fsync(file.fileno())
    (directory / "weights.npy.new").replace(directory / "weights.npy")
    key = _signing_key(directory / "model.key")
    package = pack_model(
        weights,
        invitation.vocabulary,
        training.releases,
        key,
        embedding=invitation.embedding,
        hidden=invitation.hidden,
    )
    write_whole(directory / "model", package)


def _signing_key(path: Path) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(secret_file(path))
