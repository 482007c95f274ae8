"""Runs cases in processes of their own, several at once; each writes its results to a file.

Most of a case runs on one core: a client that waits for a server, the peers, much of a training.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from tactful.util.signals import end_process

_POLL_S = 0.5


def run_apart(commands: Mapping[str, Sequence[str]], folder: Path, *, most: int) -> dict[str, int]:
    """Run commands, by the names of their cases, in this order and at most so many at once.

    Args:
        commands: each with its program.
        folder: gets a log of each, ``NAME.log``.
        most: number of processes at a time.

    Returns:
        Exit codes by name. Those that still run end with this call, whatever ends it.
    """
    waiting = [*commands.items()]
    running: dict[str, subprocess.Popen[bytes]] = {}
    codes: dict[str, int] = {}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tqdm(desc="cases", total=len(commands), unit="", dynamic_ncols=True) as bar:
            while waiting or running:
                while waiting and len(running) < most:
                    name, command = waiting.pop(0)
                    with (folder / f"{name}.log").open("wb") as log:
                        running[name] = subprocess.Popen(command, stdout=log, stderr=log)
                time.sleep(_POLL_S)
                for name, process in [*running.items()]:
                    code = process.poll()
                    if code is not None:
                        codes[name] = code
                        del running[name]
                        bar.update()
    finally:
        # One signal each: a second would cut short how a case ends its own server.
        for process in running.values():
            end_process(process, 60)
    return codes
