"""Commands around flags that need no server: ``tactful flags check``, ``convert``, ``evaluate``."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from tactful.cli import options as cli
from tactful.cli.exit_codes import ExitCode
from tactful.errors import ConfigError
from tactful.flags.reasons import steps
from tactful.util.clock import now_ms
from tactful.util.lazy_commands import LazyCommand, LazyGroup
from tactful_bandits.assignment import texts
from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags import (
    Conversion,
    Evaluation,
    Features,
    FlagSet,
    evaluate_all,
    load_flags,
    public_payload,
    read_growthbook,
    read_unleash,
    remote_reasons,
)
from tactful_privacy.decoding import DECODE_ERRORS

_READERS = {"growthbook": read_growthbook, "unleash": read_unleash}
_ON_A_SERVER = {
    name: LazyCommand(f"tactful.cli.remote.flags:{attribute}", text)
    for name, attribute, text in (
        ("apply", "apply_", "Replace all flags of a server by those of FILE, in one step."),
        ("list", "list_", "List the flags of a server, with the reasons to remove them."),
        ("show", "show", "Show the flag KEY: its rules, and the versions that changed it."),
        ("kill", "kill", "Give every unit the default value of the flag KEY until it is revived."),
        ("revive", "revive", "End the kill of the flag KEY."),
        ("why", "why", "Explain the value of the flag KEY for a unit; the look is recorded."),
    )
}


@click.group(cls=LazyGroup, lazy=_ON_A_SERVER)
def flags() -> None:
    """Check, evaluate, apply and kill feature flags and their experiments."""


@flags.command("check", epilog=cli.example("tactful flags check flags.yaml"))
@click.argument("file", type=cli.existing_file)
@cli.json_option
def check(file: Path, as_json: bool) -> None:
    """Check the flags in FILE; every wrong flag is printed with its line.

    Flags that browsers cannot evaluate themselves and flags that have expired are named on standard
    error; they are no mistakes.
    """
    definitions = _load(file)
    remote = remote_reasons(definitions)
    stale = definitions.stale(_today())
    if as_json:
        cli.print_json(_checked(definitions, remote, stale))
    else:
        for row in _checked(definitions, remote, stale):
            experiments = "".join(f", experiment {key}" for key in row["experiments"])
            state = "" if row["enabled"] else ", disabled"
            click.echo(f"{row['key']}  {row['kind']}  {row['rules']} rules{experiments}{state}")
    if not definitions.flags:
        click.echo(f"{file} has no flags.", err=True)
    for key, reason in remote.items():
        click.echo(f"{key}: only the server evaluates it: {reason}", err=True)
    for key in stale:
        click.echo(f"{key}: expired on {definitions.flags[key].expires}; remove it", err=True)


@flags.command(
    "convert",
    epilog=cli.example(
        "tactful flags convert --from growthbook features.json > flags.yaml",
        "tactful flags convert --from unleash toggles.json > flags.yaml",
    ),
)
@click.argument("file", type=cli.existing_file)
@click.option(
    "--from",
    "product",
    type=click.Choice(sorted(_READERS)),
    required=True,
    help="Product that wrote FILE: an SDK payload of GrowthBook, or Unleash's client features.",
)
@cli.json_option
def convert(file: Path, product: str, as_json: bool) -> None:
    """Print the flags of another product's FILE as definitions.

    Flags that cannot be expressed are left out and named on standard error with the reason, and the
    exit code is 6.
    """
    with cli.reported_as(ConfigError, DefinitionError):
        conversion = _READERS[product](_read_json(file))
        conversion.flag_set()  # experiments that disturb each other
    if as_json:
        cli.print_json(msgspec.to_builtins(conversion))
    else:
        click.echo(conversion.text(), nl=False)
    _print_differences(conversion)
    if conversion.refused:
        raise SystemExit(ExitCode.PARTLY_DONE)


@flags.command(
    "evaluate",
    epilog=cli.example(
        """tactful flags evaluate flags.yaml --key new-cart --attributes '{"id": "u-7"}'""",
    ),
)
@click.argument("file", type=cli.existing_file)
@click.option("--key", "keys", multiple=True, help="Flag; may be repeated. Without it, all flags.")
@click.option("--attributes", default="{}", help="Attributes of the unit, as a JSON object.")
@click.option("--sticky", default=None, help="Arms that units had before, as JSON documents.")
@click.option("--public", is_flag=True, help="Evaluate what a browser gets.")
@click.option("--why", is_flag=True, help="Print also the rules that were tried before.")
@cli.json_option
def evaluate(
    file: Path,
    keys: tuple[str, ...],
    attributes: str,
    sticky: str | None,
    public: bool,
    why: bool,
    as_json: bool,
) -> None:
    """Print the value of each flag for a unit, with the rule and the draw that decided.

    FILE holds definitions, or a compiled payload (``.json``), as a server sends it.
    """
    features = _features(file, public=public)
    known = [key for key in features.by_key if not key.startswith("$")]
    for key in keys:
        if key not in features.by_key:
            raise ConfigError(f"{file}: there is no flag {key!r}; flags are: {', '.join(known)}")
    unit = _object("--attributes", attributes)
    arms = None if sticky is None else _sticky(sticky)
    results = evaluate_all(features, unit, keys or None, sticky=arms)
    tried = {key: steps(features, key, unit, arms) for key in results} if why else {}
    if as_json:
        cli.print_json(
            [
                {**msgspec.to_builtins(result), **({"steps": tried[key]} if why else {})}
                for key, result in results.items()
            ]
        )
        return
    for key, result in results.items():
        click.echo(f"{key}  {texts.as_json(result.value)}  {_reason(result)}")
        for step in tried.get(key, ()):
            click.echo(f"  {step.rule}: {step.why}")


def _load(file: Path) -> FlagSet:
    with cli.reported_as(ConfigError, DefinitionError):
        return load_flags(file)


def _today() -> date:
    return datetime.fromtimestamp(now_ms() / 1000, UTC).date()


def _checked(
    definitions: FlagSet, remote: dict[str, str], stale: tuple[str, ...]
) -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "kind": flag.kind,
            "enabled": flag.enabled,
            "rules": len(flag.rules),
            "experiments": [
                rule.experiment.design.key for rule in flag.rules if rule.experiment is not None
            ],
            "remote": remote.get(key),
            "stale": key in stale,
        }
        for key, flag in definitions.flags.items()
    ]


def _print_differences(conversion: Conversion) -> None:
    for key, notes in conversion.notes.items():
        for note in dict.fromkeys(notes):
            click.echo(f"{key}: {note}", err=True)
    for key, reason in conversion.refused.items():
        click.echo(f"{key}: left out: {reason}", err=True)


def _features(file: Path, *, public: bool) -> Features:
    if file.suffix == ".json" and isinstance(data := _read_json(file), dict):
        content = data.get("features")
        if isinstance(content, dict):
            with cli.reported_as(ConfigError, DefinitionError):
                return Features.from_payload(data)
    definitions = _load(file)
    if not public:
        return definitions.features
    return Features.from_payload(public_payload(definitions, "salt"))


def _read_json(file: Path) -> Any:
    try:
        return msgspec.json.decode(file.read_bytes())
    except DECODE_ERRORS as error:
        raise ConfigError(f"{file}: not valid JSON: {error}") from error


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except DECODE_ERRORS as error:
        raise ConfigError(f'{option}: expected JSON such as {{"id": "u-7"}}: {error}') from error


def _sticky(text: str) -> dict[str, dict[str, str]]:
    try:
        return msgspec.json.decode(text, type=dict[str, dict[str, str]])
    except DECODE_ERRORS as error:
        example = '{"id||u-7": {"new-cart-2027__0": "on"}}'
        raise ConfigError(f"--sticky: expected JSON such as {example}: {error}") from error


def _reason(result: Evaluation) -> str:
    """Return the reason of a value in words."""
    place = "" if result.bucket is None else f" at {result.bucket:.4f} by {result.unit_attribute}"
    if result.experiment is not None:
        how = "kept" if result.sticky_used else "drawn"
        return f"{result.rule_id}: experiment {result.experiment}, arm {result.arm} {how}{place}"
    if result.source == "force":
        return f"{result.rule_id} applies{place}"
    return {
        "default": "no rule applies",
        "off": "the flag is disabled",
        "remote": "only the server evaluates it",
    }.get(result.source, result.source)
