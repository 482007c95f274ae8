"""Batches that one client sends at once are appended in its order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx
import pytest
from tests.platform.support import Live, logged_ids, view

from tactful.pipeline.batch_order import BatchOrder, Place, place_of
from tactful.schemas.problems import ProblemError


def headers(batch: int) -> Mapping[str, str]:
    return {"Tactful-Batch": f"b.{batch}", "Tactful-After": f"b.{batch - 1}"}


@pytest.mark.parametrize("kind", ["events", "items", "users"])
def test_a_batch_waits_for_the_one_before_it(live: Live, kind: str) -> None:
    """Sent in the wrong order, batches are in the log in the order of their headers."""

    async def main() -> list[int]:
        async with httpx.AsyncClient(base_url=live.url) as http:
            method = "POST" if kind == "events" else "PUT"

            async def send(number: int) -> int:
                body = view(number) if kind == "events" else {f"{kind[:-1]}_id": f"i{number}"}
                sent = await http.request(method, f"/v1/{kind}", json=body, headers=place(number))
                assert sent.status_code == 202, sent.text
                return int(sent.json()["position"])

            def place(number: int) -> Mapping[str, str]:
                return headers(number) if number > 1 else {"Tactful-Batch": "b.1"}

            later = [asyncio.create_task(send(number)) for number in (3, 2)]
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in later)
            return [await send(1), await later[1], await later[0]]

    assert asyncio.run(main()) == [1, 2, 3]
    if kind == "events":
        assert logged_ids(live.platform.settings.storage.data) == ["u-1", "u-2", "u-3"]


def test_a_batch_does_not_wait_for_ever() -> None:
    """Without the batch before it, it is refused with a time to come again; nothing is kept."""

    async def main() -> None:
        order = BatchOrder(wait_s=0.01)
        order.note("a")
        await order.reach("a")
        with pytest.raises(ProblemError) as refused:
            await order.reach("b")
        assert (refused.value.kind.status, refused.value.retry_after) == (429, 1)
        for number in range(10_000):
            order.note(str(number))
        assert len(order._appended) == 4_096

    asyncio.run(main())


@pytest.mark.slow
def test_few_batches_wait_at_once(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that wait for a batch that never comes hold no place of others."""
    monkeypatch.setattr(live.platform.ingest, "_order", BatchOrder(wait_s=1.0, waiting=2))

    async def main() -> None:
        async with httpx.AsyncClient(base_url=live.url) as http:

            async def send(number: int, after: str | None = None) -> httpx.Response:
                names = {} if after is None else {"Tactful-After": after}
                return await http.post("/v1/events", json=view(number), headers=names)

            waiting = [asyncio.create_task(send(number, "never")) for number in range(5)]
            done, left = await asyncio.wait(waiting, timeout=0.5)
            assert len(left) == 2
            assert {task.result().status_code for task in done} == {429}
            assert (await send(9)).status_code == 202
            assert {(await task).status_code for task in left} == {429}
            left = {asyncio.create_task(send(number, "never")) for number in range(2)}
            assert not (await asyncio.wait(left, timeout=0.1))[0], "the places are free again"
            for task in left:
                task.cancel()

    asyncio.run(main())


def test_a_place_is_two_names() -> None:
    """Names of other characters, empty or long ones are refused."""
    assert place_of({}) == Place(None, None)
    assert place_of({b"tactful-batch": b"a.2", b"tactful-after": b"a.1"}) == Place("a.2", "a.1")
    for name in (b"", b"a b", b"x" * 65, b"\xe4"):
        with pytest.raises(ProblemError):
            place_of({b"tactful-after": name})
