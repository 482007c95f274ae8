"""Expensive values are computed once, kept for a time, and not waited for without end."""

import threading

import pytest

from tactful.util.fresh_values import FreshValues, StillComputing


def test_a_value_is_computed_again_only_when_it_is_old() -> None:
    now, computed = [0], [0]

    def compute() -> int:
        computed[0] += 1
        now[0] += 50  # computing takes time, too
        return computed[0]

    values: FreshValues[int] = FreshValues(100, lambda: now[0])
    assert [values.get("a", compute) for _ in range(3)] == [1, 1, 1]
    assert values.get("b", compute) == 2
    now[0] += 99
    assert values.get("b", compute) == 2
    now[0] += 1
    assert values.get("b", compute) == 3


def test_who_waits_for_too_long_is_told_and_a_failure_frees_the_others() -> None:
    values: FreshValues[int] = FreshValues(100, lambda: 0, wait_s=0.01)
    started, finish = threading.Event(), threading.Event()

    def slow() -> int:
        started.set()
        assert finish.wait(10)
        raise OSError("the disk is gone")

    failures: list[str] = []

    def work() -> None:
        try:
            values.get("a", slow)
        except OSError as error:
            failures.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(10)
    with pytest.raises(StillComputing):
        values.get("b", lambda: 1)
    finish.set()
    thread.join()
    assert failures == ["the disk is gone"]
    assert values.get("b", lambda: 2) == 2
