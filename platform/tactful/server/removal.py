"""Removal of data while a server runs, assembled from a platform: erasures, undone imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tactful.erasure.personal_stores import LiveStores
from tactful.erasure.running_server import OnlineErasures
from tactful.maintenance.import_undo import ImportUndos, UndoTarget

if TYPE_CHECKING:
    from tactful.server.platform import Platform


def make_erasures(platform: Platform) -> OnlineErasures:
    """Make what erases users from the stores of the running server."""
    installation, backend = platform.resources.installation, platform.backend
    stores = LiveStores(
        installation.settings,
        backend.engine,
        backend.state,
        platform.applier,
        platform.lock,
        consents=platform.consents,
        webhooks=platform.resources.webhooks,
        drop_recommendations=platform.recent.forget,
        rollouts=platform.rollout_controller,
        arms=platform.flags.sticky,
        profiles=platform.domains.stored,
        bandits=platform.bandits.learner,
    )
    return OnlineErasures(installation, backend.written, running=stores)


def make_undos(platform: Platform) -> ImportUndos:
    """Make what takes imports out of log, state and features of the running server."""
    backend = platform.backend
    target = UndoTarget(
        *(backend.engine, backend.state, platform.applier, platform.lock),
        append=backend.append,
        logs=backend.written,
    )
    return ImportUndos(platform.resources.installation, platform.imports, target)
