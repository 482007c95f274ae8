"""A process that is killed while it applies flags leaves the version before or the one after."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from tests.platform.flags.flag_files import FLAGS
from tests.platform.support import killed_after

from tactful.flags.service import FlagService
from tactful.flags.store import FlagStore
from tactful.metadata.audit import AuditTrail
from tactful.metadata.store import open_metadata
from tactful.schemas.experiments.flags import FlagsFile

WORK = """
import sqlalchemy as sa
from pathlib import Path
from tactful.flags.service import FlagService
from tactful.flags.store import FlagStore
from tactful.metadata.store import open_metadata
from tactful.schemas.experiments.flags import FlagsFile

def clock():
    return 1_796_000_000_000

def work(count):
    metadata = open_metadata(sys.argv[1], clock=clock)
    service = FlagService(FlagStore(metadata, clock=clock), clock=clock)
    step = countdown(count)
    for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
        sa.event.listen(sa.Engine, name, lambda *_: step())
    text = Path(sys.argv[2]).read_text("utf-8").replace("share: 0.5", f"share: 0.{count + 10}")
    service.apply(FlagsFile(definitions=text), by="ann")
"""


@pytest.mark.slow  # some twenty kills of a process that opens a database
def test_a_killed_apply_leaves_one_version_or_the_other(tmp_path: Path) -> None:
    path, file = tmp_path / "metadata.db", tmp_path / "flags.yaml"
    file.write_text(FLAGS, "utf-8")
    with closing(open_metadata(path)) as metadata:
        FlagService(FlagStore(metadata, clock=lambda: 5), clock=lambda: 5).apply(
            FlagsFile(definitions=FLAGS), by="ann"
        )
    kills, numbers = 0, []
    with killed_after(WORK, path, file) as killed_at:
        while killed_at(kills):
            kills += 1
            with closing(open_metadata(path)) as metadata:
                service = FlagService(FlagStore(metadata, clock=lambda: 5), clock=lambda: 5)
                number = service.served.number
                applied, _ = AuditTrail(metadata, clock=lambda: 5).entries(action="flag")
                assert len(applied) == number
                shares = [it.differences for it in service.store.changes()]
                assert len(shares) == number
                payload = service.served.features.by_key["结账"]
                assert payload.rules[0].rollout is not None
                numbers.append(number)
    assert kills >= 8
    assert numbers == sorted(numbers)
    assert 1 in numbers and max(numbers) > 1, "killed before and after the commit"
