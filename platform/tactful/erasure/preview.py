"""Preview of an erasure: counts by store, without removal."""

from __future__ import annotations

from tactful.erasure.erase import look_up
from tactful.schemas.users import ErasureStep
from tactful.subjects.export import export_person
from tactful.subjects.installation import Installation


def preview(installation: Installation, person: str) -> list[ErasureStep]:
    """Count the data of a user in each store, also beside a running server.

    The counts are those of an export. With the log in Kafka only log and ids are searched: workers
    hold the states of partitions.

    Raises:
        StorageError: if the metadata cannot be used.
        StreamingError: if log or state cannot be read.
    """
    settings = installation.settings
    if not settings.log.in_files:
        return look_up(installation, person)
    export = export_person(settings, installation.metadata, person, clock=installation.clock)
    events = sum(record["kind"] == "event" for record in export.records)
    return [
        ErasureStep(place="log", removed=len(export.records), note=f"{events} of them events"),
        ErasureStep(
            place="names",
            removed=events + len(export.sessions) + len(export.devices),
            note=f"{events} events, {len(export.sessions)} visits, {len(export.devices)} devices of"
            f" their own, {len(export.shared_devices)} shared",
        ),
        ErasureStep(place="state", removed=len(export.features), note="sets of features"),
        ErasureStep(place="dead letters", removed=len(export.dead_letters)),
        ErasureStep(place="webhooks", removed=len(export.waiting_actions)),
        ErasureStep(place="consent", removed=len(export.consent), note="decisions"),
    ]
