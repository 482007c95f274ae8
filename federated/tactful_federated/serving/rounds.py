"""Server of a deployment: invitation, rounds on a SuperLink, live view and model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tactful_federated.core.checkpoint import write_whole
from tactful_federated.core.compression import Encoding
from tactful_federated.core.groups import FEWEST_DEVICES
from tactful_federated.core.invitation import Invitation, Tier, read_invitation, save_invitation
from tactful_federated.core.plan import TrainingPlan, Wishes, plan_noise_in_sum, plan_training
from tactful_federated.core.polling import Polling
from tactful_federated.core.private_training import (
    Collector,
    Outcome,
    PrivateTraining,
    wait_for_devices,
)
from tactful_federated.core.server_optimizer import Optimizer
from tactful_federated.device.model_package import pack_model
from tactful_federated.device.stock_node import require_clear
from tactful_federated.errors import SettingsError, extra, require
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.collectors import ClearCollector, SecureCollector, SecureTransport
from tactful_federated.transport.certificates import secret_file
from tactful_federated.transport.pages import JoinedTransports
from tactful_privacy.durable_files import replacing

with extra():
    from flwr.serverapp import Grid

_log = logging.getLogger(__name__)

_POLLING = Polling()


class LiveView(msgspec.Struct, frozen=True, kw_only=True):
    """Public state of a run, written to `live.json` after each round.

    Attributes:
        run: Name of the run.
        tier: Server's view of updates.
        round: Number of rounds so far.
        releases: Number of rounds that changed the model.
        planned: Number of releases of the plan.
        epsilon: Privacy loss of one device if the run ends with this release. If devices add the
            noise, void rounds count, since the server may have seen their sums.
        delta: Delta of that loss.
        reason: Reason why the last round was void, else empty.
        seconds: Duration of the last round.
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
    stock: bool = False,
) -> Invitation:
    """Plan a run and write its invitation, or check the existing one.

    The keys of the enrolling authority and of models are created in the directory. Move the first
    one to another party before a population depends on a tier that hides updates.

    Args:
        directory: Directory of the server.
        wishes: Requirements; `parameters` is replaced by that of the catalogue and the widths.
        categories: Public catalogue.
        run: Name of the run.
        tier: Server's view of updates.
        learning_rate: Step size of devices.
        proximal: Penalty on the distance from the weights sent; see `TrainerSettings`.
        embedding: Width of a token's vector.
        hidden: Width of the LSTM state.
        stock: Whether stock Flower nodes may take part; they run a bundle that the server sends.

    Raises:
        SettingsError: There is no plan for the requirements, stock nodes cannot take part in the
            tier, the model is too large, or the directory has another run.
    """
    TrainerSettings(learning_rate=learning_rate, proximal=proximal)  # checks the ranges
    if stock:
        require_clear(tier)
    vocabulary = Vocabulary.from_catalogue(categories)
    weights = initial_weights(vocabulary, embedding, hidden)
    wishes = replace(wishes, parameters=weights.size)
    plan = plan_noise_in_sum(wishes) if tier == "noise-in-sum" else plan_training(wishes)
    require(
        tier != "clear" or not (wishes.group_size or wishes.corrupt),
        "a group size and a share of corrupt devices go with secret sums: omit them",
    )
    if tier != "clear" and plan.minimum_reports < FEWEST_DEVICES:
        raise SettingsError(f"a secret sum needs {FEWEST_DEVICES} devices: raise the report goal")
    authority, signer = _public_keys(directory)
    path = directory / "invitation.json"
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
        difference=least_difference(path, wishes, plan, tier),
        bundle=_bundle_of(path) if stock else msgspec.UNSET,
        groups=wishes.groups or msgspec.UNSET,
    )
    save_invitation(path, invitation)
    return invitation


def _bundle_of(path: Path) -> str:
    """Return the hash of the bundle for stock nodes, or that of the existing invitation."""
    from tactful_federated.transport.bundle import bundle_hash

    digest = bundle_hash()
    if path.exists() and isinstance(existing := read_invitation(path).bundle, str):
        if existing != digest:
            _log.warning(
                "the installed version of Flower builds another bundle than %s names: its hash is"
                " now %s; inform the operators of stock nodes",
                path,
                digest,
            )
        return existing
    return digest


def _public_keys(directory: Path) -> tuple[bytes, bytes]:
    """Return the keys of authority and models; the first start creates them."""
    path = directory / "invitation.json"
    if path.exists():  # the authority's key may have been moved elsewhere
        existing = read_invitation(path)
        return existing.authority, existing.signer
    authority, signer = (
        _signing_key(directory / name).public_key().public_bytes_raw()
        for name in ("authority.key", "model.key")
    )
    return authority, signer


def least_difference(
    path: Path, wishes: Wishes, plan: TrainingPlan, tier: Tier
) -> int | msgspec.UnsetType:
    """Return `difference` of a new invitation, or that of the existing one in `path`.

    A server can subtract two exact sums whose devices it chose. The difference of two random
    cohorts of n among 2 n devices covers n devices on average, so the bound rarely ends a round. In
    a smaller population it often would, and is unset.
    """
    if path.exists():
        return read_invitation(path).difference
    if tier != "secret" or plan.participations == 1:
        return msgspec.UNSET
    if wishes.population * wishes.availability < 2 * plan.cohort:
        _log.warning(
            "the population is too small to keep secure sums from overlapping: a lying server can"
            " subtract two sums and read one update; prefer --tier noise-in-sum"
        )
        return msgspec.UNSET
    return wishes.groups.fewest if wishes.groups else plan.minimum_reports


def authority_key(directory: Path) -> Ed25519PrivateKey:
    """Return the private key of the enrolling authority.

    Raises:
        SettingsError: The file is missing. A new key would enrol devices that others reject.
    """
    path = directory / "authority.key"
    if not path.exists():
        raise SettingsError(
            f"{path} is missing: enrol devices on the machine that has the authority's key"
        )
    return _signing_key(path)


def initial_weights(
    vocabulary: Vocabulary, embedding: int = 32, hidden: int = 32, *, seed: int = 7
) -> Vector:
    """Return the initial weights of a run, equal on all machines."""
    from tactful_federated.model.lstm_torch import IntentModel

    return IntentModel(vocabulary.size, embedding, hidden, seed=seed).vector()


def collector_for(
    invitation: Invitation,
    grid: Grid,
    *,
    deadline: float,
    encoding: Encoding = "float32",
    trim: float = 0.0,
    pages: SecureTransport | None = None,
) -> Collector:
    """Return the collector of updates for the tier of a run.

    Args:
        invitation: Invitation of the run.
        grid: Grid of the devices.
        deadline: Seconds for a round in the clear, or for each of the five exchanges of a sum.
        encoding: Encoding of updates in the clear.
        trim: Share trimmed at each end of each coordinate, in the clear; see `ClearCollector`.
        pages: Devices in web pages, which take part in the same secret sums.

    Raises:
        SettingsError: An encoding or trimming is given for a secret sum, which supports neither.
    """
    if invitation.tier == "clear":
        goal = invitation.plan.report_goal
        require(
            trim == 0 or trim * goal >= 1,
            # Rounded up, so the suggested value is accepted.
            f"trim {trim:g} of {goal} updates is less than one: trim at least"
            f" {math.ceil(1e6 / goal) / 1e6:g}",
        )
        from tactful_federated.transport.flower_clear import FlowerPopulation

        population = FlowerPopulation(
            grid, invitation.vocabulary, timeout=deadline, encoding=encoding
        )
        return ClearCollector(population, deadline=deadline, trim=trim)
    require(
        encoding == "float32",
        f"encoding is {encoding!r}, but secret sums use words of 32 bits: omit encoding",
    )
    require(trim == 0, "only updates in the clear can be trimmed: omit trim")
    from tactful_federated.transport.flower_secure import FlowerSecureTransport

    transport: SecureTransport = FlowerSecureTransport(grid, timeout=deadline)
    if pages is not None:
        transport = JoinedTransports([transport, pages])
    return SecureCollector(transport, invitation.enrolled_by, run=invitation.run, terms=invitation)


def serve_rounds(
    directory: Path,
    invitation: Invitation,
    collector: Collector,
    *,
    optimizer: Optimizer | None = None,
    rounds: int | None = None,
    progress: Callable[[Outcome, LiveView], None] | None = None,
    polling: Polling = _POLLING,
) -> Vector:
    """Run rounds until all releases of the plan are made; a restart resumes the run.

    It waits while too few devices are available. It writes `live.json` after each round, and
    `weights.npy` and the signed `model` at the end.

    Args:
        directory: Directory of the server.
        invitation: Invitation of the run.
        collector: Sums the updates of a round.
        optimizer: Server optimiser, the same at each start.
        rounds: Number of releases to stop after; None is the number of the plan.
        progress: Called after each round.
        polling: Interval and clock.

    Returns:
        Weights to use.

    Raises:
        CheckpointError: The directory is in use, damaged, or of another run.
    """
    plan, wanted = invitation.plan, min(rounds or invitation.plan.rounds, invitation.plan.rounds)
    with closing(open_run(directory, invitation, optimizer)) as training:
        while training.releases < wanted:
            wait_for_devices(
                lambda: len(training.able(collector.ids())), plan.minimum_reports, polling
            )
            begun = polling.monotonic()
            outcome = training.run_round(collector)
            show_round(directory, invitation, outcome, polling.monotonic() - begun, progress)
        publish(directory, invitation, training)
        return training.model


def open_run(
    directory: Path, invitation: Invitation, optimizer: Optimizer | None = None
) -> PrivateTraining:
    """Open or create the run of an invitation.

    Raises:
        SettingsError: The run began with another optimizer.
        CheckpointError: The directory is in use, damaged, or of another run.
    """
    optimizer = optimizer or Optimizer()
    path, document = directory / "optimizer.json", msgspec.json.encode(asdict(optimizer))
    if not path.exists():
        write_whole(path, document)
    elif path.read_bytes() != document:
        raise SettingsError(
            f"{path} holds another optimizer, and a run cannot change it: use that one, or start a"
            " new run in another directory"
        )
    weights = initial_weights(invitation.vocabulary, *invitation.widths)
    return PrivateTraining(directory / "rounds", invitation.plan, optimizer, weights)


def show_round(
    directory: Path,
    invitation: Invitation,
    outcome: Outcome,
    seconds: float,
    progress: Callable[[Outcome, LiveView], None] | None,
) -> None:
    """Write the live view after a round, and call `progress`."""
    sums = visible_sums(invitation.tier, outcome.round, outcome.releases)
    view = LiveView(
        run=invitation.run,
        tier=invitation.tier,
        round=outcome.round,
        releases=outcome.releases,
        planned=invitation.plan.rounds,
        epsilon=round(invitation.plan.epsilon_after(sums), 6),
        delta=invitation.plan.delta,
        reason=outcome.reason,
        seconds=round(seconds, 3),
    )
    write_whole(directory / "live.json", msgspec.json.encode(view))
    if progress:
        progress(outcome, view)


def visible_sums(tier: Tier, rounds: int, releases: int) -> int:
    """Return the number of noisy sums that the server may have seen, for `epsilon_after`.

    If devices add the noise, the server may have seen the sum of a void round, too.
    """
    return rounds if tier == "noise-in-sum" else releases


def publish(directory: Path, invitation: Invitation, training: PrivateTraining) -> None:
    """Write the weights of a run, and the signed model package for devices."""
    weights = training.model
    with replacing(directory / "weights.npy") as file:
        np.save(file, weights)
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
