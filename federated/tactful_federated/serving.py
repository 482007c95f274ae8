"""Rounds of a deployment: invited, led over a SuperLink, kept, and shown while they run."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
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
from tactful_federated.private_rounds import Collector, Outcome, PrivateTraining
from tactful_federated.secure_messages import FEWEST_DEVICES
from tactful_federated.tokens import Vocabulary
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
) -> Invitation:
    """Plan a run and write its invitation, or find the one that it began with.

    Args:
        directory: Of the server. The enrolling authority's key and the models' are made here; take
            the first to other hands before a population relies on a tier that hides updates.
        wishes: What the run is to be; its `parameters` follow from the catalogue.
        categories: The public catalogue.
        run: Name of the run.
        tier: What the server is to see.
        learning_rate: Of a device's steps.

    Raises:
        SettingsError: The wishes make no plan, or another run lives in the directory.
    """
    vocabulary = Vocabulary.from_catalogue(categories)
    wishes = replace(wishes, parameters=initial_weights(vocabulary).size)
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


def initial_weights(vocabulary: Vocabulary) -> Vector:
    """Where a run begins: the same on every machine."""
    from tactful_federated.model import IntentModel

    return IntentModel(vocabulary.size, seed=7).vector()


def collector_for(
    invitation: Invitation, grid: Grid, *, deadline: float, encoding: Encoding = "float32"
) -> Collector:
    """Sums a round's updates as the tier wants it.

    Args:
        invitation: Of the run.
        grid: To the devices.
        deadline: Seconds for a round in the clear, or for each of the five exchanges of a sum.
        encoding: Of updates in the clear.

    Raises:
        SettingsError: A secret sum was to be encoded: its words are as long as its modulus.
    """
    if invitation.tier == "clear":
        from tactful_federated.flower import FlowerPopulation

        population = FlowerPopulation(
            grid, invitation.vocabulary, timeout=deadline, encoding=encoding
        )
        return ClearCollector(population, deadline=deadline)
    require(
        encoding == "float32",
        f"encoding is {encoding!r}, but the tier sums in secret, in words of 32 bits: leave it out",
    )
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
    training = PrivateTraining(
        directory / "rounds",
        plan,
        optimizer or Optimizer(),
        initial_weights(invitation.vocabulary),
    )
    waiting = False
    try:
        while training.releases < wanted:
            able = training.ledger.eligible(collector.ids(), training.releases)
            if len(able) < plan.minimum_reports:
                if not waiting:
                    _log.warning(
                        "waiting: %d devices are online and may take part, of %d that it takes",
                        len(able),
                        plan.minimum_reports,
                    )
                waiting = True
                sleep(poll)
                continue
            waiting = False
            begun = clock()
            outcome = training.run_round(collector)
            view = _view(invitation, outcome, clock() - begun)
            write_whole(directory / "live.json", msgspec.json.encode(view))
            if progress:
                progress(outcome, view)
        _publish(directory, invitation, training)
        return training.model
    finally:
        training.close()


def epsilon_spent(invitation: Invitation, releases: int) -> float:
    """What any one device has spent of the plan's epsilon, at its delta, after some releases.

    The bound on the sensitivity of a device's participations is taken for as many as fit into so
    few releases, never more than the plan's; the plan's own figure is reached with the last.
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


def _view(invitation: Invitation, outcome: Outcome, seconds: float) -> LiveView:
    return LiveView(
        run=invitation.run,
        tier=invitation.tier,
        round=outcome.round,
        releases=outcome.releases,
        planned=invitation.plan.rounds,
        epsilon=round(epsilon_spent(invitation, outcome.releases), 6),
        delta=invitation.plan.delta,
        reason=outcome.reason,
        seconds=round(seconds, 3),
    )


def _publish(directory: Path, invitation: Invitation, training: PrivateTraining) -> None:
    weights = training.model
    with (directory / "weights.npy.new").open("wb") as file:
        np.save(file, weights)
        file.flush()
        os.fsync(file.fileno())
    (directory / "weights.npy.new").replace(directory / "weights.npy")
    key = _signing_key(directory / "model.key")
    package = pack_model(weights, invitation.vocabulary, training.releases, key)
    write_whole(directory / "model", package)


def _signing_key(path: Path) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(secret_file(path))
