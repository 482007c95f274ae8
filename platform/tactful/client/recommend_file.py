"""Recommendations for all users of a file, written as CSV or Parquet; a killed run resumes."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import msgspec

from tactful.client.sync import Client
from tactful.errors import DatasetError
from tactful.schemas.fields import MAX_BATCH
from tactful.schemas.problems import KINDS, Problem
from tactful.schemas.recommendations import BatchResult, Recommendation, RecommendRequest

COLUMNS = ("user_id", "place", "item_id", "score", "channel", "recommendation_id", "fallback")
"""Columns of the result, a row for each recommended item."""

_USER = "user_id"
_LONGEST = 256
_TOO_LONG = BatchResult(
    problem=Problem(
        title=KINDS["invalid"].title,
        status=KINDS["invalid"].status,
        code="invalid",
        detail=f"the user id is longer than {_LONGEST} characters",
    )
)


@dataclass
class Outcome:
    """Result of a run.

    Attributes:
        users: number of users with a recommendation, with those of an earlier run.
        rows: number of rows of the result.
        problems: line of each user without one, from 1, and the reason.
    """

    users: int = 0
    rows: int = 0
    problems: list[tuple[int, Problem]] = field(default_factory=list)


def recommend_file(
    client: Client,
    source: Path,
    target: Path,
    request: RecommendRequest,
    *,
    advanced: Callable[[int], object] = lambda users: None,
) -> Outcome:
    """Request a recommendation for each user of `source`, and write all to `target`.

    Until it is complete the result is in a file beside `target`, from which a killed run goes on.

    Args:
        client: of the server.
        source: a user id in each line, or CSV with a column ``user_id``.
        target: ends with ``.csv`` or ``.parquet``.
        request: its fields hold for every user.
        advanced: called with the number of users of each step.

    Raises:
        DatasetError: if a file cannot be read or written, or has no user.
        ClientError: if the server refuses; what is done is kept.
    """
    if target.suffix not in (".csv", ".parquet"):
        raise DatasetError(f"{target}: write to a file that ends with .csv or .parquet")
    part = target.with_name(target.name + ".part")
    try:
        users = read_users(source)
        outcome, done = _earlier(part, users)
        advanced(done)
        with part.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for number, batch in _batches(users, done):
                sendable = [user for user in batch if len(user) <= _LONGEST]
                answers = client.recommend_batch(
                    [msgspec.structs.replace(request, user_id=user) for user in sendable]
                ).results
                results = dict(zip(sendable, answers, strict=True))
                for place, user in enumerate(batch):
                    result = results.get(user, _TOO_LONG)
                    if result.recommendation is not None:
                        writer.writerows(_rows(user, result.recommendation))
                        outcome.users += 1
                        outcome.rows += max(len(result.recommendation.items), 1)
                    elif result.problem is not None:
                        writer.writerow([user, 0, "", "", "", "", result.problem.code])
                        outcome.problems.append((number + place + 1, result.problem))
                file.flush()
                os.fsync(file.fileno())
                advanced(len(batch))
        _finish(part, target)
    except OSError as error:
        raise DatasetError(f"{error.filename or source}: {error.strerror or error}") from error
    return outcome


def read_users(path: Path) -> list[str]:
    """Read the user ids of a file, each once, in their order.

    Raises:
        DatasetError: if it has none, or its header names no column ``user_id``.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8: {error}") from error
    rows = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    column = 0
    if rows and _USER in (header := [cell.strip() for cell in rows[0]]):
        column, rows = header.index(_USER), rows[1:]
    elif rows and len(rows[0]) > 1:
        raise DatasetError(
            f"{path}: several columns, and none is named {_USER!r}: name it in the first line"
        )
    users = dict.fromkeys(row[column].strip() for row in rows if len(row) > column)
    users.pop("", None)
    if not users:
        raise DatasetError(f"{path}: holds no user id")
    return [*users]


def _batches(users: Sequence[str], begin: int) -> Iterator[tuple[int, list[str]]]:
    rest = iter(users[begin:])
    while batch := [*islice(rest, MAX_BATCH)]:
        yield begin, batch
        begin += len(batch)


def _rows(user: str, answer: Recommendation) -> Iterator[list[str | int | float]]:
    about = [answer.recommendation_id, answer.fallback or ""]
    if not answer.items:
        yield [user, 0, "", "", "", *about]
    for place, item in enumerate(answer.items, 1):
        yield [user, place, item.item_id, item.score, item.channel, *about]


def _earlier(part: Path, users: Sequence[str]) -> tuple[Outcome, int]:
    """Return what an earlier run did, and cut off the rows of its last batch.

    The last batch may be incomplete, also in the middle of a row.
    """
    if not part.exists():
        part.write_text(",".join(COLUMNS) + "\r\n", "utf-8")
        return Outcome(), 0
    with part.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS)][1:]
    written = [*dict.fromkeys(row[0] for row in rows)]
    done = max(len(written) - 1, 0) // MAX_BATCH * MAX_BATCH
    whole = written[:-1]
    if whole != [*users[: len(whole)]]:
        raise DatasetError(f"{part}: of other users; remove it to begin anew")
    kept = {*written[:done]}
    rows = [row for row in rows if row[0] in kept]
    with part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    found = {row[0] for row in rows if row[5]}
    return Outcome(users=len(found), rows=sum(bool(row[5]) for row in rows)), done


def _finish(part: Path, target: Path) -> None:
    """Put the finished result in its place, in the format of its name."""
    if target.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import csv as arrow_csv
        from pyarrow import parquet

        types = {name: pa.string() for name in COLUMNS}
        types |= {"place": pa.int32(), "score": pa.float64()}
        options = arrow_csv.ConvertOptions(column_types=types)
        table = arrow_csv.read_csv(part, convert_options=options)
        scratch = part.with_suffix(".tmp")
        parquet.write_table(table, scratch)
        scratch.replace(target)
        part.unlink()
    else:
        part.replace(target)
