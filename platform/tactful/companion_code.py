"""How a thread of machine code waits for work and does it, written to become machine code.

The two sides share an array of words. `STATE` says whose turn it is, and changes hands by comparing
and swapping, so that work is done once: by the thread that took it, or by whoever offered it and
took it back. The thread waits on a semaphore while nobody needs it. Once roused it spins, does what
is offered, one piece of work after the other, and sleeps again when it is told to, or when nothing
came for a while.

Numba keeps machine code until this file changes, so that all of its source has to be in here.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

STATE, NEEDED, BY, CODE, GIVEN, SEMAPHORE, CLOCK, CORES = (8 * line for line in range(8))
"""Places of the words, each in a line of the cache of its own."""

CORE_WORDS = 16
"""Words from `CORES` on, a bit for each core that the thread may be on."""

WORDS = CORES + CORE_WORDS
"""Length of the array; a semaphore takes up to eight words."""

FREE, OFFERED, TAKEN, DONE, ENDED = range(5)
"""Values of the word `STATE`."""

NOT_NEEDED, SOON, AGAIN = range(3)
"""Values of the word `NEEDED`; `AGAIN` when it was roused although it was awake."""

_AWAKE_NS = 500_000
_ROUNDS = 128
_MONOTONIC = 1
_PATIENT = 20_000
_WORD = ir.IntType(64)
_PAUSES = {"x86_64": "llvm.x86.sse2.pause", "AMD64": "llvm.x86.sse2.pause"}
_wait: Any = types.ExternalFunction("sem_wait", types.int32(types.intp))
_post: Any = types.ExternalFunction("sem_post", types.int32(types.intp))
_yield: Any = types.ExternalFunction("sched_yield", types.int32())
_tell_time: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))
_core: Any = types.ExternalFunction("sched_getcpu", types.int32())
_stay_on: Any = types.ExternalFunction(
    "sched_setaffinity", types.int32(types.int32, types.intp, types.intp)
)


def attend(shared: int) -> None:
    """Do what is offered until `ENDED`; to be compiled and called by the thread.

    Args:
        shared: address of the words.
    """
    while True:
        _wait(shared + 8 * SEMAPHORE)
        if _load(shared, STATE) == ENDED:
            return
        if _core() == _load(shared, BY):
            _leave_core(shared)
        rounds, until = 0, 0
        while _load(shared, NEEDED) != NOT_NEEDED:
            if _load(shared, STATE) == OFFERED and _swap(shared, STATE, OFFERED, TAKEN):
                _call(_load(shared, CODE), _load(shared, GIVEN))
                _store(shared, STATE, DONE)
                rounds = until = 0
            # How long a pause is differs by ten from one kind of processor to the next.
            if rounds % _ROUNDS == 0:
                now = _now(shared)
                if until == 0 or _swap(shared, NEEDED, AGAIN, SOON):
                    until = now + _AWAKE_NS
                elif now >= until:
                    _swap(shared, NEEDED, SOON, NOT_NEEDED)
            rounds += 1
            _pause()


def _now_code(shared: int) -> int:
    """Nanoseconds that never go back."""
    _tell_time(_MONOTONIC, shared + 8 * CLOCK)
    return _load(shared, CLOCK) * 1_000_000_000 + _load(shared, CLOCK + 1)  # type: ignore[no-any-return]


def _leave_core_code(shared: int) -> None:
    """Go to another core: on this one the thread would keep from work whoever roused it."""
    core = np.int64(_core())
    mask = np.empty(CORE_WORDS, np.int64)
    for word in range(CORE_WORDS):
        mask[word] = _load(shared, CORES + word)
    mask[core >> 6] &= ~(np.int64(1) << (core & 63))
    _stay_on(0, 8 * CORE_WORDS, mask.ctypes.data)


def rouse(shared: int) -> None:
    """Have the thread awake soon; to be compiled."""
    _store(shared, BY, _core())
    if _swap(shared, NEEDED, NOT_NEEDED, SOON):
        _post(shared + 8 * SEMAPHORE)
    else:
        _swap(shared, NEEDED, SOON, AGAIN)


def rest(shared: int) -> None:
    """Have the thread sleep as soon as it has done what it began; to be compiled."""
    _store(shared, NEEDED, NOT_NEEDED)


def offer(shared: int, code: int, given: int) -> bool:
    """Offer work to the thread; to be compiled.

    Args:
        shared: address of the words.
        code: address of a function of C that takes an address and returns nothing.
        given: the address that it is called with.

    Returns:
        Whether it was offered: it is not where the thread was not roused, or something else is on
        offer.
    """
    if _load(shared, NEEDED) == NOT_NEEDED or _load(shared, STATE) != FREE:
        return False
    _store(shared, CODE, code)
    _store(shared, GIVEN, given)
    _store(shared, STATE, OFFERED)
    return True


def collect(shared: int) -> None:
    """Have what was offered done: by the thread if it began, else here; to be compiled."""
    if _swap(shared, STATE, OFFERED, TAKEN):
        _call(_load(shared, CODE), _load(shared, GIVEN))
    else:
        rounds = 0
        while _load(shared, STATE) != DONE:
            rounds += 1
            if rounds > _PATIENT:  # it was interrupted, perhaps by what waits here
                _yield()
            _pause()
    _store(shared, STATE, FREE)


def do(code: int, given: int) -> None:
    """Do work that was not offered; to be compiled."""
    _call(code, given)


def end(shared: int) -> None:
    """Have the thread end; to be compiled."""
    _store(shared, STATE, ENDED)
    _post(shared + 8 * SEMAPHORE)


def _address(builder: Any, shared: Any, place: Any) -> Any:
    begin = builder.inttoptr(shared, _WORD.as_pointer())
    return builder.gep(begin, [place])


def _load_code(_: Any, shared: Any, place: Any) -> Any:
    """A word, as the other side left it."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        return builder.load_atomic(_address(builder, *given), "seq_cst", 8)

    return types.int64(types.int64, types.int64), emit


def _store_code(_: Any, shared: Any, place: Any, value: Any) -> Any:
    """Set a word, after all that was written before."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        builder.store_atomic(given[2], _address(builder, *given[:2]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


def _swap_code(_: Any, shared: Any, place: Any, held: Any, value: Any) -> Any:
    """Set a word if it holds a value; whether it did."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        where = _address(builder, *given[:2])
        found = builder.cmpxchg(where, given[2], given[3], "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(*[types.int64] * 4), emit


def _call_code(_: Any, code: Any, given: Any) -> Any:
    """Call a function of C at an address."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_WORD])
        builder.call(builder.inttoptr(given[0], kind.as_pointer()), [given[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


def _pause_code(_: Any) -> Any:
    """Leave the core to others for a moment, where it can be said."""

    def emit(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        name = _PAUSES.get(platform.machine())
        if name is not None:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic(name, (), kind), [])
        return context.get_dummy_value()

    return types.void(), emit


_load: Any = intrinsic(_load_code)
_store: Any = intrinsic(_store_code)
_swap: Any = intrinsic(_swap_code)
_call: Any = intrinsic(_call_code)
_pause: Any = intrinsic(_pause_code)
_now: Any = numba.njit(error_model="numpy")(_now_code)
_leave_core: Any = numba.njit(error_model="numpy")(_leave_core_code)
