"""The intent of a page: models by version, predictions as in Python, triggers, one request."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.federated.wire_terms import signing_key
from tests.sdk.device.page_shop import INVITED, Shop
from tests.sdk.device.test_pages_train import WEIGHTS

from tactful_federated.device.event_store import StoredVisit
from tactful_federated.device.foresee import foresee
from tactful_federated.device.model_package import pack_model
from tactful_federated.device.triggers import Trigger
from tactful_federated.model.lstm_numpy import IntentPredictor
from tactful_federated.model.tokens import BOUNDARY

pytestmark = [pytest.mark.service("chromium", "web"), pytest.mark.timeout(600)]

WIDTHS = {"embedding": 4, "hidden": 3}
SIGNER = signing_key("signer")
LATER_MS = 31 * 60_000
"""Time after which a visit is over."""


def install(
    shop: Shop,
    version: int,
    *,
    key: Ed25519PrivateKey = SIGNER,
    weights: np.ndarray = WEIGHTS,
    widths: dict[str, int] = WIDTHS,
) -> None:
    package = pack_model(weights, INVITED.vocabulary, version, key, **widths)
    shop.page.run(f"await device.install(Uint8Array.from({list(package)}))")


@pytest.mark.slow
def test_models_are_newer_of_the_run_and_no_worse_for_the_visitor(shop: Shop) -> None:
    shop.device()
    assert shop.page.run("return device.predict()") == {}
    shop.page.run("for (const name of ['tea', 'soap']) await device.record(name)")
    install(shop, 7)
    narrow = {"weights": np.zeros(82, np.float32), "widths": {"embedding": 2, "hidden": 2}}
    for version, more, reason in [
        (6, {}, "not newer than 7"),
        (7, {}, "not newer than 7"),
        (8, {"key": signing_key("another")}, "not signed"),
        (8, narrow, "widths"),
        (8, {"weights": WEIGHTS * 40}, "worse on this device"),
    ]:
        with pytest.raises(RuntimeError, match=reason):
            install(shop, version, **more)  # type: ignore[arg-type]
    before = shop.page.run("return device.predict()")
    install(shop, 8, weights=WEIGHTS * np.float32(0.5))
    assert shop.page.run("return device.predict()") != before
    # A withdrawal deletes the model, and the version that was reached may come back.
    shop.page.run("await device.setConsent(false); await device.setConsent(true)")
    assert shop.page.run("return device.predict()") == {}
    with pytest.raises(RuntimeError, match="not newer than 8"):
        install(shop, 7)
    install(shop, 8)
    assert shop.page.run("return device.predict()") != {}


def test_a_request_has_the_intent_that_python_predicts(shop: Shop) -> None:
    shop.device(own="nothing")
    shop.page.run("for (const name of ['tea', 'soap']) await device.record(name)")
    install(shop, 1)
    vocabulary = INVITED.vocabulary
    predictor = IntentPredictor(WEIGHTS, vocabulary.size, **WIDTHS)
    # The visit goes on, and then it is over: the next token is a category, or a new visit's.
    for shift, ending in [(0, []), (LATER_MS, [BOUNDARY])]:
        shop.page.run(f"window.shift = {shift}")
        history = [*vocabulary.sequence([["tea", "soap"]]).tolist(), *ending]
        expected = predictor.predict(history)
        likely = shop.page.run("return device.predict(4)")
        assert likely == pytest.approx({c: expected[vocabulary.token(c)] for c in likely}, abs=1e-6)
    visits = [StoredVisit(1, 0.0, ["tea", "soap"])]
    soon = [Trigger("soon", ("tea",), steps=3)]
    about = foresee(predictor, vocabulary, visits, soon, now=LATER_MS / 1000)[0].probability
    assert shop.page.run("return device.aboutTo(['tea'])") == pytest.approx(about, abs=0.005)
    sent = shop.page.run(
        "const intent = await device.intent(); let sent;"
        "const client = new tactful.Tactful({ url: location.origin, consent: true });"
        "const passed = window.fetch; window.fetch = async (url, { body }) => {"
        " sent = JSON.parse(body); return new Response('{}'); };"
        "await client.recommend({ count: 5, intent }); window.fetch = passed; client.close();"
        "return sent.intent;"
    )
    best = max(likely.values())
    tenths = {c: int(10 * p / best) / 10 for c, p in likely.items()}
    assert sent == {c: tenths[c] for c in list(likely)[:3] if tenths[c]}


@pytest.mark.slow
def test_a_personal_model_is_fitted_to_the_visits(shop: Shop) -> None:
    options = shop.device(own="all")
    shop.page.run(
        "for (let visit = 0; visit < 40; visit++) {"
        f" window.shift = visit * {LATER_MS};"
        " for (const name of ['tea', 'soap', 'tea']) await device.record(name); }"
    )
    install(shop, 1)
    shared = shop.page.run("return device.predict()")  # until the personal one is fitted
    shop.page.run("await device.personalised()")
    fitted = shop.page.run("window.shift += 3_600_000; return device.predict()")
    assert fitted["tea"] > shared["tea"] + 0.1
    shop.page.run(
        f"create({json.dumps({**options, 'own': 'nothing'})}); await device.setConsent(true)"
    )
    shop.page.run(f"window.shift = 40 * {LATER_MS}")
    assert shop.page.run("return device.predict()") != fitted  # it was in memory only


def test_no_code_of_the_page_reads_the_key_of_a_device(shop: Shop) -> None:
    options = shop.device()
    shop.start()
    found = shop.page.run(
        f"const opening = indexedDB.open({json.dumps(options['database'])});"
        "await new Promise((resolve) => { opening.onsuccess = resolve; });"
        "const settings = opening.result.transaction('settings').objectStore('settings');"
        "const reading = settings.get('identity');"
        "const key = await new Promise((resolve) => {"
        " reading.onsuccess = () => resolve(reading.result.privateKey); });"
        "opening.result.close();"
        "const read = (as) => crypto.subtle.exportKey(as, key).catch((error) => error.name);"
        "return [key.extractable, await read('pkcs8'), await read('jwk')];"
    )
    assert found == [False, "InvalidAccessError", "InvalidAccessError"]
