"""Sending a file: several batches at once, in order, resumed after an end, stopped in time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.imports.support import write

from tactful.client import AsyncClient
from tactful.errors import ClientError, DatasetError
from tactful.imports.options import ImportOptions
from tactful.imports.progress import ProgressStore, state_directory
from tactful.imports.run import Outcome, prepare, run
from tactful.pipeline.batch_order import BatchOrder, place_of
from tactful.schemas.problems import ProblemError

Answer = Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]
URL = "http://server"


class Log:
    """A server that keeps the elements of a request in order, each id once."""

    def __init__(self, faults: Sequence[str] = (), refuses: Callable[[Any], bool] = bool) -> None:
        self.ids: list[str] = []
        self.elements: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = self.requests = 0
        self._faults = iter(faults)
        self._refuses = refuses
        self._order = BatchOrder(wait_s=0.05)

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.at_once += 1
        self.requests += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._answer(request, next(self._faults, "none"))
        finally:
            self.at_once -= 1

    async def _answer(self, request: httpx.Request, fault: str) -> httpx.Response:
        if fault == "late":
            await asyncio.sleep(0.002)
        if fault == "rejected":
            return httpx.Response(429)
        if fault == "restart":
            self._order = BatchOrder(wait_s=0.05)
            raise httpx.ConnectError("gone")
        place = place_of({name.lower(): value for name, value in request.headers.raw})
        try:
            await self._order.reach(place.after)
        except ProblemError as error:
            return httpx.Response(error.kind.status)
        elements = [json.loads(line) for line in request.content.splitlines()]
        wrong = [
            i for i, it in enumerate(elements) if self._refuses is not bool and self._refuses(it)
        ]
        good = [it for index, it in enumerate(elements) if index not in wrong]
        known = {*self.ids}
        new = [it for it in good if it.get("event_id", object()) not in known]
        self.ids += [it["event_id"] for it in new if "event_id" in it]
        self.elements += new
        self._order.note(place.batch)
        await asyncio.sleep(0)
        if fault == "lost":
            raise httpx.ReadTimeout("lost")
        rejected = [{"index": index, "code": "bad", "message": "is bad"} for index in wrong]
        fields = {"accepted": len(new), "rejected": rejected, "position": 1}
        if request.url.path == "/v1/events":
            fields["duplicates"] = len(good) - len(new)
        return httpx.Response(202, json=fields)


async def nothing(seconds: float) -> None:
    await asyncio.sleep(0)


class Importer:
    """Imports a file again and again, with one directory of progress."""

    def __init__(self, path: Path, state: Path | None, **options: Any) -> None:
        self.path = path
        self.store = ProgressStore(state)
        self.store.problem()
        self.options = ImportOptions(**options)
        self.notes: list[str] = []
        self.advanced = 0

    def run(self, answer: Answer, *, restart: bool = False, **given: Any) -> Outcome:
        job = prepare(self.path, self.options, URL, self.store, restart=restart)
        retries = given.pop("retries", 20)

        def advanced(size: int) -> None:
            self.advanced += size

        async def main() -> Outcome:
            transport = httpx.MockTransport(answer)
            async with AsyncClient(
                URL, transport=transport, sleep=nothing, retries=retries
            ) as client:
                sizes = {"batch": 2, "in_flight": 4} | given
                return await run(job, client, advanced=advanced, now_ms=lambda: 7, **sizes)

        try:
            return asyncio.run(main())
        finally:
            self.notes = job.notes


TIME = 1_700_000_000_000


def lines(names: Sequence[object], **more: Any) -> str:
    common = {"type": "view", "timestamp": TIME, "user_id": "u"} | more
    return "".join(json.dumps({"event_id": str(name)} | common) + "\n" for name in names)


def table(count: int, start: int = 0) -> str:
    rows = "".join(f"u{n % 7},i{n},view,{TIME + n}\n" for n in range(start, count))
    return rows if start else f"user,item,type,time\n{rows}"


def test_several_batches_are_sent_at_once(tmp_path: Path) -> None:
    """Up to `in_flight` requests wait for their answers together, once one was accepted."""
    names = [str(number) for number in range(40)]
    importer = Importer(write(tmp_path / "events", lines(names)), None)
    for in_flight in (1, 4):
        log = Log(["late"] * 20)
        outcome = importer.run(log.answer, in_flight=in_flight)
        assert (outcome.accepted, log.most_at_once, log.ids) == (40, in_flight, names)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["none", "late", "rejected", "restart", "lost"]), max_size=16),
    st.booleans(),
)
def test_any_fault_keeps_the_order_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, faults: list[str], raw: bool
) -> None:
    """Whatever is rejected, late or lost, each event is appended once, in the order of the file."""
    log = Log(faults)
    folder = tmp_path_factory.mktemp("sent")
    text = lines(range(20), item_id="i") if raw else table(20)
    outcome = Importer(write(folder / "events", text), None).run(log.answer)
    assert outcome.accepted + outcome.duplicates == 20
    if raw:
        assert log.ids == [str(number) for number in range(20)]
    else:
        assert [it["item_id"] for it in log.elements] == [f"i{number}" for number in range(20)]


@pytest.mark.parametrize("raw", [True, False])
def test_a_refused_batch_stops_those_behind_it(raw: bool, tmp_path: Path) -> None:
    """The progress ends before a rejected batch, and the next run begins there."""
    text = lines(range(20)) if raw else table(20)
    importer = Importer(write(tmp_path / "events", text), tmp_path / "state")
    log = Log()
    seventh = b'"6"' if raw else b'"i6"'

    async def refusing(request: httpx.Request) -> httpx.Response:
        if seventh in request.content:
            return httpx.Response(500)
        return await log.answer(request)

    with pytest.raises(ClientError):
        importer.run(refusing)
    assert len(log.elements) == 6
    rest = importer.run(log.answer)
    header = 0 if raw else 1
    assert (rest.resumed_at, rest.accepted, len(log.elements)) == (7 + header, 14, 20)
    assert {path.name for path in tmp_path.iterdir()} == {"events", "state"}, "nothing beside it"


def test_lines_without_an_id_count_once_in_a_second_run(tmp_path: Path) -> None:
    """Equal lines differ by their place, and a second run gives each the same id."""
    line = json.dumps({"type": "view", "timestamp": TIME, "user_id": "u"})
    importer = Importer(write(tmp_path / "events", f"{line}\n\n" * 5), None)
    log = Log()
    first, again = importer.run(log.answer), importer.run(log.answer)
    assert (first.accepted, again.accepted, again.duplicates) == (5, 0, 5)


@pytest.mark.parametrize("raw", [True, False])
def test_a_file_may_grow(raw: bool, tmp_path: Path) -> None:
    text = lines(range(5)) if raw else table(5)
    importer = Importer(write(tmp_path / "events", text), tmp_path / "state")
    log = Log()
    assert importer.run(log.answer).accepted == 5
    requests = log.requests
    assert importer.run(log.answer).rows == 0
    assert log.requests == requests, "nothing is sent again"
    with importer.path.open("a") as file:
        file.write(lines(range(5, 9)) if raw else table(9, 5))
    more = importer.run(log.answer)
    assert (more.accepted, more.duplicates, len(log.elements)) == (4, 0, 9)


def test_a_longer_file_is_understood_as_before(tmp_path: Path) -> None:
    """What is appended does not change the guess for the rest."""
    head = "user,item,rating,date\nada,tea,5,13/2/2024\n"
    importer = Importer(write(tmp_path / "t.csv", head), tmp_path / "state")
    log = Log()
    importer.run(log.answer)
    write(importer.path, head + "ada,cup,5,3/4/2024\n" * 3)
    importer.run(log.answer)
    assert [it["timestamp"] for it in log.elements][1:] == [1712102400000] * 3, "3 April"


def test_appended_rows_that_fit_no_guess_are_refused_one_by_one(tmp_path: Path) -> None:
    head = "user,item,type,when\nada,tea,view,2024-01-31\n"
    importer = Importer(write(tmp_path / "t.csv", head), tmp_path / "state")
    importer.run(Log().answer)
    with importer.path.open("a") as file:
        file.write("ada,cup,zap,2024-01-31\nada,cup,view,soon\nada,cup,view,2024-02-01\n")
    outcome = importer.run(Log().answer)
    assert (outcome.accepted, outcome.rejected_by_code) == (
        1,
        {"unknown_type": 1, "bad_timestamp": 1},
    )


def test_a_changed_file_of_events_is_refused(tmp_path: Path) -> None:
    importer = Importer(write(tmp_path / "t.csv", table(6)), tmp_path / "state")
    log = Log()
    importer.run(log.answer)
    write(importer.path, table(9).replace("u1,", "x1,", 1))
    with pytest.raises(DatasetError, match=r"first 7 lines are not those.*--restart"):
        importer.run(log.answer)
    assert len(log.elements) == 6
    outcome = importer.run(log.answer, restart=True)
    assert (outcome.accepted, outcome.duplicates) == (4, 5), "unchanged rows count once"


def test_a_changed_file_of_items_is_sent_again(tmp_path: Path) -> None:
    """An item replaces the one before, and shops write their feeds anew every day."""
    importer = Importer(write(tmp_path / "t.csv", "sku,title\ntea,Tea\n"), tmp_path / "state")
    log = Log()
    importer.run(log.answer)
    write(importer.path, "sku,title,price\ntea,Assam,3\ncup,Cup,4\n")
    assert importer.run(log.answer).accepted == 2
    assert log.elements[-1] == {"item_id": "cup", "title": "Cup", "price": 4}
    assert importer.notes == ["the file was changed since the last run: this one sent all of it"]
    assert importer.run(log.answer).rows == 0


def test_progress_belongs_to_kind_server_and_options(tmp_path: Path) -> None:
    text = "user,item,title,type,time\n" + "".join(
        f"u,i{n},Tea {n},view,{TIME + n}\n" for n in range(4)
    )
    path, state, log = write(tmp_path / "t.csv", text), tmp_path / "state", Log()
    assert Importer(path, state).run(log.answer).accepted == 4
    assert Importer(path, state, kind="items").run(log.answer).accepted == 4
    assert Importer(path, state, kind="events").run(log.answer).rows == 0, "the same mapping"
    other = Importer(path, state, constants=("type=click",))
    assert other.run(log.answer).accepted == 4
    assert other.notes == [
        "the last run had other options or columns: this one starts at the beginning"
    ]


def test_the_first_refusals_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"u,i{n},view,{TIME + n if n % 3 else 'soon'}\n" for n in range(90))
    rows = "u,i,view,1700000000000\n" * 800 + rows
    path = write(tmp_path / "t.csv", f"user,item,type,time\n{rows}")
    log = Log(refuses=lambda it: it["item_id"] == "i1")
    outcome = Importer(path, None).run(log.answer, batch=100)
    assert outcome.rejected == 31
    assert outcome.rejected_by_code == {"bad_timestamp": 30, "bad": 1}
    assert [it.row for it in outcome.rejections] == [802, 803, *range(805, 859, 3)]
    assert len(outcome.rejections) == 20


@pytest.mark.slow
@pytest.mark.parametrize("raw", [True, False])
def test_an_import_that_stores_nothing_stops_and_keeps_no_progress(
    raw: bool, tmp_path: Path
) -> None:
    text = lines(range(5_000)) if raw else table(5_000)
    importer = Importer(write(tmp_path / "t", text), tmp_path / "state")
    log = Log(refuses=lambda it: True)
    with pytest.raises(DatasetError, match=r"rejected all of the first 500 rows \(500 bad\)"):
        importer.run(log.answer, batch=100)
    assert log.requests == 5
    assert importer.run(Log().answer, batch=1000).accepted == 5_000


def test_a_bad_beginning_does_not_stop_the_rest(tmp_path: Path) -> None:
    importer = Importer(write(tmp_path / "t", lines(range(20))), tmp_path / "state")
    outcome = importer.run(Log(refuses=lambda it: int(it["event_id"]) < 7).answer)
    assert (outcome.rejected, outcome.accepted) == (7, 13)


def test_a_file_of_which_no_row_can_be_sent_is_an_error(tmp_path: Path) -> None:
    text = "user,item,type,time\n" + f",tea,view,{TIME}\n" * 5
    importer = Importer(write(tmp_path / "t.csv", text), None, maps=("user=user",))
    with pytest.raises(DatasetError, match=r"none of 5 rows could be sent \(5 no_subject\)"):
        importer.run(Log().answer)
    text = "user,item,type,time\n" + f"ada,tea,view,{TIME}\n" * 5
    skipping = Importer(write(tmp_path / "u.csv", text), None, types=("view=",))
    with pytest.raises(DatasetError, match="skips all of its 5 rows"):
        skipping.run(Log().answer)


def test_rows_out_of_order_are_sent_sorted_and_resumed(tmp_path: Path) -> None:
    day = 86_400_000
    rows = [f"u,i{n},view,{TIME - n * day}\n" for n in range(20)]
    path = write(tmp_path / "t.csv", "user,item,type,time\n" + "".join(rows))
    importer, log = Importer(path, tmp_path / "state"), Log()

    async def failing(request: httpx.Request) -> httpx.Response:
        return await log.answer(request) if log.requests < 4 else httpx.Response(500)

    with pytest.raises(ClientError):
        importer.run(failing)
    assert len(log.elements) == 8
    rest = importer.run(log.answer)
    assert (rest.resumed_at, rest.accepted, rest.duplicates) == (9, 12, 0)
    times = [it["timestamp"] for it in log.elements]
    assert times == sorted(times)
    assert len(times) == 20
    importer.advanced = 0
    assert importer.run(log.answer).accepted == 0
    assert importer.advanced == path.stat().st_size, "the bar reaches its end"
    with path.open("a") as file:
        file.write(f"u,late,view,{TIME}\n")
    with pytest.raises(DatasetError, match="--restart"):
        importer.run(log.answer)


def test_the_bar_reaches_the_size_of_the_file(tmp_path: Path) -> None:
    importer = Importer(write(tmp_path / "t.csv", table(33)), tmp_path / "state")
    importer.run(Log().answer)
    assert importer.advanced == importer.path.stat().st_size
    importer.advanced = 0
    with importer.path.open("a") as file:
        file.write(table(40, 33))
    importer.run(Log().answer)
    assert importer.advanced == importer.path.stat().st_size


@pytest.mark.slow
def test_requests_stay_within_the_limits_of_the_server(tmp_path: Path) -> None:
    rows = "".join(f"i{n},{'x' * 1_900},{'y' * 1_900}\n" for n in range(2_000))
    path = write(tmp_path / "t.csv", f"sku,title,body\n{rows}")
    sizes: list[tuple[int, int]] = []
    log = Log()

    async def measured(request: httpx.Request) -> httpx.Response:
        sizes.append((len(request.content), request.content.count(b"\n") + 1))
        return await log.answer(request)

    outcome = Importer(path, None).run(measured, batch=1000)
    assert outcome.accepted == 2_000
    assert max(size for size, _ in sizes) < 1_100_000
    order = {"order": "o", "user": "u", "at": TIME, "type": "buy"}
    order |= {"lines": [{"sku": str(n)} for n in range(2_500)]}
    sizes.clear()
    path = write(tmp_path / "t.jsonl", f"{json.dumps(order)}\n" * 2)
    assert Importer(path, None).run(measured, batch=1000).accepted == 5_000
    assert max(count for _, count in sizes) == 1_000


def test_a_damaged_record_of_progress_is_said(tmp_path: Path) -> None:
    importer = Importer(write(tmp_path / "t", lines(range(3))), tmp_path / "state")
    importer.run(Log().answer)
    (record,) = [path for path in (tmp_path / "state").iterdir() if path.suffix == ".json"]
    assert record.stat().st_mode & 0o077 == 0
    record.write_bytes(b"{")
    with pytest.raises(DatasetError, match="is damaged; begin anew with --restart"):
        importer.run(Log().answer)
    assert importer.run(Log().answer, restart=True).accepted == 3


def test_the_directory_of_the_progress(tmp_path: Path) -> None:
    home = Path("/home/ada")
    assert state_directory({"XDG_STATE_HOME": "/s"}, home) == Path("/s/tactful/imports")
    assert state_directory({}, home) == home / ".local" / "state" / "tactful" / "imports"
    assert state_directory({"XDG_STATE_HOME": "relative"}, home) == state_directory({}, home)
    assert state_directory({}, None) is None
    write(tmp_path / "file", "")
    assert "Not a directory" in str(ProgressStore(tmp_path / "file" / "x").problem())
