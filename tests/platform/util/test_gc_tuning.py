"""The interpreter is set for short delays, and set back."""

import gc
import sys

from tactful.util import gc_tuning as interpreter


def test_threads_take_turns_quickly_and_old_objects_are_left_alone() -> None:
    before = sys.getswitchinterval(), gc.get_threshold()
    with interpreter.short_delays():
        assert sys.getswitchinterval() < before[0]
        young, middle, _ = gc.get_threshold()
        # What one look at the younger generations finds is bounded by this many new objects.
        assert young * middle <= 100_000
        interpreter.freeze_living_objects()
        assert gc.get_freeze_count() > 0
    assert (sys.getswitchinterval(), gc.get_threshold()) == before
    assert gc.get_freeze_count() == 0
