"""Progress of long work, on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from tqdm import tqdm

Progress = Callable[[int, int], None]
"""Takes how much is done, of how much."""


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Show a bar while the context lasts."""
    with tqdm(desc=title, unit="", dynamic_ncols=True) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
