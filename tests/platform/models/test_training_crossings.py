"""Profiles that a training reads: of people who consent now, as a running server sees it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tactful.config.domains import DomainSettings
from tactful.config.privacy import ConsentSettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.metadata.connections import open_installation
from tactful.metadata.crossed_profiles import CrossedProfile, save_profile
from tactful.metadata.directory_lock import exclusive
from tactful.models.training_run import crossing_data
from tactful.subjects.consent import note_of_server, open_consents
from tactful.subjects.erasure_requests import ErasureJobs
from tactful.subjects.suppression import open_suppression
from tactful.util.clock import now_ms

PAIR = "shop>magazine"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    peers = {"shop": ["A" * 86 + "=="]}
    (tmp_path / "data").mkdir()
    return Settings(
        storage=StorageSettings(data=tmp_path / "data"),
        domains=DomainSettings(name="magazine", peers=peers),
        consent=ConsentSettings(default="deny"),
    )


def people(settings: Settings) -> set[str]:
    data = crossing_data(settings, (), 17)
    assert data is not None and data.previous is None and data.trained_at == 17
    return {profile.person for profile in data.profiles}


def test_only_people_who_consent_and_are_there_teach(settings: Settings) -> None:
    decisions = {
        "default": {PAIR: True},
        "agreed": {PAIR: True, "personalisation": True},
        "erased": {PAIR: True, "personalisation": True},
    }
    with closing(open_installation(settings)) as metadata:
        open_consents(settings, metadata, clock=now_ms).record_many(decisions, source="test")
        for person in (*decisions, "silent"):
            profile = CrossedProfile(person, "shop", "1", 1, (0.5,))
            assert save_profile(metadata, profile, person, 1)
        open_suppression(settings, metadata, clock=now_ms).suppress(["erased"])
    assert people(settings) == {"agreed"}
    served = replace(settings, consent=ConsentSettings(default="assume"))
    with exclusive(settings.storage.data, note=note_of_server(served)):
        assert people(settings) == {"agreed", "default"}, "the server was started with --dev"
    nameless = replace(settings, domains=DomainSettings())
    assert crossing_data(nameless, (), 17) is None


def test_a_training_knows_the_latest_erasure_and_what_is_refused(settings: Settings) -> None:
    with closing(open_installation(settings)) as metadata:
        consents = open_consents(settings, metadata, clock=now_ms)
        for person in ("ada", "device:d"):
            consents.record(person, {PAIR: True, "personalisation": True}, source="test")
        jobs = ErasureJobs(metadata, clock=lambda: 23)
        jobs.forget(jobs.request("eve").receipt, ())
        jobs.complete()
        data = crossing_data(settings, (), 17)
        assert data is not None and data.erased_at == 23
        assert data.crosses(PAIR, ["ada", "device:d"])
        consents.record("ada", {PAIR: False}, source="test")
        data = crossing_data(settings, (), 17)
        assert data is not None and not data.crosses(PAIR, ["device:d", "ada"])
