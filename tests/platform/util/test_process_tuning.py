"""The interpreter is set for short delays, and large pieces of memory go back to the system."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.platform.support import wait_until

from tactful.util import process_tuning

_MB = 1 << 20

_DIRTY = """
import sys
from pathlib import Path
from tactful.util.process_tuning import return_free_pages, return_large_pieces

def dirty():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) * 1024

"""

# The first piece that is given back raises the size from which glibc asks the system, if it may.
_LARGE = """
if sys.argv[1] == "returned":
    return_large_pieces()
del (first := [b"x" * (4 << 20)])[:]
before = dirty()
pieces = [(b"x" * ((3 << 20) + n), b"x" * ((64 << 10) + n)) for n in range(20)]
kept = [small for _, small in pieces]
del pieces
print(dirty() - before)
"""

_SMALL = """
before = dirty()
pieces = [b"x" * ((64 << 10) + n) for n in range(960)]
kept = pieces[::16]
del pieces
if sys.argv[1] == "returned":
    return_free_pages()
print(dirty() - before)
"""


def _left(program: str, told: str, **environment: str) -> int:
    """Bytes that a process keeps that took 60 MB in pieces, with others between them."""
    done = subprocess.run(
        [sys.executable, "-c", _DIRTY + program, told],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


_of_glibc = pytest.mark.skipif(
    not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names,
    reason="it is about glibc",
)


@_of_glibc
def test_large_pieces_are_returned_unless_the_environment_says_otherwise() -> None:
    assert _left(_LARGE, "as it is") > 40 * _MB, "or there is nothing to be done"
    assert _left(_LARGE, "returned") < 5 * _MB
    wanted = {"MALLOC_MMAP_THRESHOLD_": str(32 * _MB)}
    assert _left(_LARGE, "returned", **wanted) > 40 * _MB


@_of_glibc
def test_what_lies_free_between_small_pieces_is_returned() -> None:
    assert _left(_SMALL, "as it is") > 40 * _MB, "or there is nothing to be done"
    assert _left(_SMALL, "returned") < 10 * _MB


def test_threads_take_turns_quickly_and_old_objects_are_left_alone() -> None:
    before = sys.getswitchinterval(), gc.get_threshold()
    with process_tuning.short_delays():
        assert sys.getswitchinterval() < before[0]
        young, middle, _ = gc.get_threshold()
        # What one look at the younger generations finds is bounded by this many new objects.
        assert young * middle <= 100_000
        process_tuning.freeze_living_objects()
        assert gc.get_freeze_count() > 0
    assert (sys.getswitchinterval(), gc.get_threshold()) == before
    assert gc.get_freeze_count() == 0


_CODE = """
from llvmlite import binding as llvm
from tactful.util.process_tuning import drop_code

def resident():
    size, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            ours = "libllvmlite" in line
        elif line.startswith("Rss:") and ours:
            size += int(line.split()[1]) * 1024
    return size

def translate():
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    return machine.emit_object(llvm.parse_assembly("define i32 @f() { ret i32 7 }"))

code = translate()
before = resident()
drop_code()
after = resident()
assert after < before / 3, (before, after)
assert translate() == code
print(before - after)
"""


def test_code_of_the_compiler_leaves_memory_and_comes_back() -> None:
    """After the start its pages are dropped, and it still compiles."""
    assert _left(_CODE, "") > 10 * _MB


def test_only_code_that_equals_its_file_is_dropped() -> None:
    """Data, changed pages, and constants that the loader may still change stay."""
    kinds = ["r-xp /a.so", "r--p /a.so", "r--p /libllvmlite.so", "rw-p /libllvmlite.so", "r-xp [v]"]
    mappings = [(kind, changed) for kind in kinds for changed in (0, 8)]
    lines: list[str] = []
    for number, (kind, changed) in enumerate(mappings, 1):
        rights, file = kind.split()
        lines.append(f"{number:x}000-{number + 1:x}000 {rights} 00000000 fe:00 7    {file}")
        lines += ["Rss:    4 kB", f"Anonymous:      {changed} kB", "VmFlags: rd ex mr mw me"]
    dropped = [*process_tuning._unchanged("\n".join(lines))]
    assert dropped == [(0x1000, 0x1000), (0x5000, 0x1000)]


_LOW = """
import os, time
from tactful.util.process_tuning import low_priority

def main():
    with low_priority() as executor:
        print(executor.submit(os.getpid).result(), flush=True)
        executor.submit(time.sleep, 60)
        time.sleep(60)

if __name__ == "__main__":
    main()
"""


def test_a_process_of_low_priority_ends_with_its_killed_parent(tmp_path: Path) -> None:
    program = tmp_path / "low.py"
    program.write_text(_LOW, encoding="utf-8")
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert os.getpriority(os.PRIO_PROCESS, child) >= 10
        parent.kill()
        parent.stdout.read()  # until the child, which has this end of the pipe, has ended as well
    wait_until(lambda: not _runs(child), 20.0)


def _runs(process: int) -> bool:
    """Whether a process is there; one that ended and waits for its parent is not."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
