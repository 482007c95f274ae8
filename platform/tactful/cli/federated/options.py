"""Shared options of the commands for training on devices."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

import click

from tactful.cli.options import existing_file, with_options
from tactful.errors import ConfigError
from tactful_federated.core.plan import Wishes
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import parameter_count
from tactful_federated.transport.certificates import Tls, make_tls


class CohortOptions(TypedDict):
    """Values of :func:`cohort_options`: the devices of a round."""

    population: int
    delta: float | None
    report_goal: int
    minimum_reports: int
    over_selection: float
    availability: float
    spare: int


class LinkOptions(TypedDict):
    """Values of :func:`link_options`: port and certificate of the server."""

    port: int
    certificate: Path | None
    key: Path | None
    authority: Path | None


class LeaderOptions(CohortOptions, LinkOptions):
    """Values of :func:`cohort_options` and :func:`link_options`."""


class WidthOptions(TypedDict):
    """Values of :func:`width_options`: widths of the layers of the model."""

    embedding: int
    hidden: int


class ServeOptions(LeaderOptions, WidthOptions):
    """Values of all these options, for training."""


cohort_options = with_options(
    click.option(
        "--population", type=click.IntRange(1), required=True, help="Number of devices in all."
    ),
    click.option("--delta", type=float, help="Default: a tenth of 1 / population."),
    click.option("--report-goal", type=click.IntRange(1), default=1000, show_default=True),
    click.option(
        "--minimum-reports",
        type=click.IntRange(0),
        default=0,
        help="Minimum number of reports of a round; 0: two thirds of --report-goal.",
    ),
    click.option("--over-selection", type=float, default=1.3, show_default=True),
    click.option("--availability", type=float, default=0.5, show_default=True),
    click.option(
        "--spare",
        type=click.IntRange(0),
        default=0,
        help="Additional participations of a device for void rounds.",
    ),
)
"""Options for the devices of a round; see :func:`wishes_of`."""


def wishes_of(cohort: CohortOptions, *, epsilon: float, rounds: int, **more: Any) -> Wishes:
    """Return the requirements of a run with such a cohort.

    Raises:
        SettingsError: something is out of range.
    """
    delta = 0.1 / cohort["population"] if cohort["delta"] is None else cohort["delta"]
    return Wishes(
        epsilon=epsilon,
        delta=delta,
        population=cohort["population"],
        rounds=rounds,
        report_goal=cohort["report_goal"],
        minimum_reports=cohort["minimum_reports"],
        over_selection=cohort["over_selection"],
        availability=cohort["availability"],
        spare=cohort["spare"],
        **more,
    )


link_options = with_options(
    click.option("--port", type=int, default=9092, show_default=True, help="Port on 127.0.0.1."),
    click.option(
        "--certificate",
        type=existing_file,
        help="PEM file with the certificate; default: one is created.",
    ),
    click.option("--key", type=existing_file, help="PEM file with the key of the certificate."),
    click.option(
        "--authority", type=existing_file, help="PEM file with the authority that devices pin."
    ),
)
"""Options of the server that devices reach; see :func:`tls_of`."""


def tls_of(link: LinkOptions, directory: Path, hosts: tuple[str, ...] = ()) -> Tls:
    """Return the given TLS files, or create them for the server in `directory`.

    Raises:
        ConfigError: only some of them were given.
    """
    given = [path for path in (link["certificate"], link["key"], link["authority"]) if path]
    if given and len(given) < 3:
        raise ConfigError("--certificate, --key and --authority go together")
    if given:
        return Tls(*given)
    names = list(dict.fromkeys([*hosts, "localhost", "127.0.0.1"]))
    return make_tls(directory / "tls", names, now=datetime.datetime.now(datetime.UTC))


width_options = with_options(
    click.option(
        "--embedding",
        type=click.IntRange(1),
        default=32,
        show_default=True,
        help="Width of a token's vector in the model.",
    ),
    click.option(
        "--hidden",
        type=click.IntRange(1),
        default=32,
        show_default=True,
        help="Width of the model's state.",
    ),
)
"""Options for the widths of the layers of the model; see :func:`widths_of`."""


def widths_of(widths: WidthOptions, catalogue: Iterable[str]) -> WidthOptions:
    """Return the widths if a model of them and of a catalogue is small enough for devices.

    Raises:
        ConfigError: it is too large.
    """
    from tactful_federated.model.lstm_torch import MAX_PARAMETERS  # imports torch

    embedding, hidden = widths["embedding"], widths["hidden"]
    tokens = Vocabulary.from_catalogue(catalogue).size
    size = parameter_count(tokens, embedding=embedding, hidden=hidden)
    if size > MAX_PARAMETERS:
        raise ConfigError(
            f"--embedding {embedding} and --hidden {hidden} make {size} parameters of {tokens}"
            f" tokens, more than {MAX_PARAMETERS}: give less, or a coarser catalogue"
        )
    return {"embedding": embedding, "hidden": hidden}
