"""Options that commands around training on devices share."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

import click

from tactful.command_options import existing_file, with_options
from tactful.errors import ConfigError
from tactful_federated import Tls, Vocabulary, Wishes, make_tls
from tactful_federated.vectors import parameter_count


class CohortOptions(TypedDict):
    """Values of :func:`cohort_options`: who is asked."""

    population: int
    delta: float | None
    report_goal: int
    minimum_reports: int
    over_selection: float
    availability: float
    spare: int


class LinkOptions(TypedDict):
    """Values of :func:`link_options`: where devices reach the server, and by which certificate."""

    port: int
    certificate: Path | None
    key: Path | None
    authority: Path | None


class LeaderOptions(CohortOptions, LinkOptions):
    """Both: whom a command asks, and where it is reached."""


class WidthOptions(TypedDict):
    """Values of :func:`width_options`: how wide the model's layers are."""

    embedding: int
    hidden: int


class ServeOptions(LeaderOptions, WidthOptions):
    """All of these: what leads training takes."""


cohort_options = with_options(
    click.option("--population", type=click.IntRange(1), required=True, help="Devices in all."),
    click.option("--delta", type=float, help="Default: a tenth of 1 / population."),
    click.option("--report-goal", type=click.IntRange(1), default=1000, show_default=True),
    click.option(
        "--minimum-reports", type=click.IntRange(0), default=0, help="0: two thirds of it."
    ),
    click.option("--over-selection", type=float, default=1.3, show_default=True),
    click.option("--availability", type=float, default=0.5, show_default=True),
    click.option("--spare", type=click.IntRange(0), default=0, help="Times in void rounds."),
)
"""Options that say who is asked; see :func:`wishes_of`."""


def wishes_of(cohort: CohortOptions, *, epsilon: float, rounds: int, **more: Any) -> Wishes:
    """What is wished of a run that asks such a cohort.

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
    click.option("--port", type=int, default=9092, show_default=True, help="Of loopback."),
    click.option("--certificate", type=existing_file, help="PEM; without it one is made, once."),
    click.option("--key", type=existing_file, help="PEM, of the certificate."),
    click.option("--authority", type=existing_file, help="PEM that devices pin."),
)
"""Options of the server that devices reach; see :func:`tls_of`."""


def tls_of(link: LinkOptions, directory: Path, hosts: tuple[str, ...] = ()) -> Tls:
    """The files that were given, or those made for the server in `directory`.

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
"""Options that say how wide the model's layers are; see :func:`widths_of`."""


def widths_of(widths: WidthOptions, catalogue: Iterable[str]) -> WidthOptions:
    """The widths alone, if a model of them and of a catalogue is small enough for devices.

    Raises:
        ConfigError: it is too large.
    """
    from tactful_federated.model import MAX_PARAMETERS  # imports torch

    embedding, hidden = widths["embedding"], widths["hidden"]
    tokens = Vocabulary.from_catalogue(catalogue).size
    size = parameter_count(tokens, embedding=embedding, hidden=hidden)
    if size > MAX_PARAMETERS:
        raise ConfigError(
            f"--embedding {embedding} and --hidden {hidden} make {size} parameters of {tokens}"
            f" tokens, more than {MAX_PARAMETERS}: give less, or a coarser catalogue"
        )
    return {"embedding": embedding, "hidden": hidden}
