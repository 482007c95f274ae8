"""Erasure and export of a person contain sticky arms and exposures, offline and online."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest
from tests.platform.support import Live, build, logged, small_settings, wait_until

from tactful.config.settings import Settings
from tactful.metadata.flag_arms import arms_of
from tactful.metadata.store import open_metadata
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import named_keys

FLAGS = """
flags:
  form:
    default: off
    rules: [{experiment: {key: form-1, arms: [off, on], sticky: true}}]
"""


def kept(settings: Settings, person: str) -> list[str]:
    with closing(open_metadata(settings.storage.data / "metadata.db")) as metadata:
        return [arm.arm for arm in arms_of(metadata, [person])]


@pytest.mark.slow
@pytest.mark.parametrize(
    "person", ["zoe-4711", pytest.param("device:phone-4711", marks=pytest.mark.slow)]
)
@mock.patch("tactful.server.background._ERASE_S", 0.2)
def test_a_running_server_erases_arms_and_exposures(tmp_path: Path, person: str) -> None:
    settings = small_settings(tmp_path)
    name = "user_id" if person == "zoe-4711" else "device_id"
    with Live(Platform.open(settings, build)) as live:
        assert live.http.post("/v1/flags", json={"definitions": FLAGS}).is_success
        arms = {}
        for identity in (person.removeprefix("device:"), "other"):
            answer = live.http.post("/v1/assign", json={name: identity})
            arms[identity] = answer.json()["flags"]["form"]["arm"]
        wait_until(lambda: bool(live.http.get(f"/v1/users/{person}/export").json()["records"]))
        export = live.http.get(f"/v1/users/{person}/export").json()
        (record,) = export["records"]
        assert record["type"] == "exposure"
        assert record["properties"]["arm"] == arms[person.removeprefix("device:")]
        (arm,) = export["kept_arms"]
        assert (arm["person"], arm["arm"]) == (person, record["properties"]["arm"])
        receipt = live.http.delete(f"/v1/users/{person}").json()["receipt"]
        path = f"/v1/erasures/{receipt}"
        wait_until(lambda: live.http.get(path).json()["state"] == "done")
        steps = {step["place"]: step["removed"] for step in live.http.get(path).json()["steps"]}
        assert steps["flags"] == 1
        again = live.http.post("/v1/assign", json={name: person.removeprefix("device:")}).json()
        assert not again["consented"], "an erased person takes part in nothing"
    assert kept(settings, person) == []
    assert len(kept(settings, person.replace(person.removeprefix("device:"), "other"))) == 1
    data = settings.storage.data
    assert person not in {key for entry in logged(data) for key in named_keys(entry)}
    stored = (data / "metadata.db").read_bytes()
    assert person.removeprefix("device:").encode() not in stored, "no bytes remain"
