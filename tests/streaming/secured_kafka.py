"""Options of an Apache Kafka with every kind of login."""

from tests.platform.http.issuer import AUDIENCE, Issuer

_SASL = "org.apache.kafka.common.security"


def secured_options(issuer: Issuer) -> list[str]:
    """Return the options of a broker with TLS, certificates of clients, and all SASL mechanisms.

    The broker asks the issuer for its keys, at its start, too: `allowed_urls` has to be in the
    environment then.
    """
    properties = {
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,OAUTHBEARER",
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.oauthbearer.jwks.endpoint.url": f"{issuer.url}/jwks",
        "sasl.oauthbearer.expected.audience": AUDIENCE,
        "sasl.oauthbearer.expected.issuer": issuer.url,
        # Sessions end with their tokens, and clients log in again within a connection.
        "connections.max.reauth.ms": "3600000",
    }
    for listener in ("sasl_plaintext", "sasl_ssl"):
        name = f"listener.name.{listener}"
        properties |= {
            f"{name}.plain.sasl.jaas.config": f"{_SASL}.plain.PlainLoginModule required "
            'user_alice="alice-secret";',
            f"{name}.oauthbearer.sasl.jaas.config": f"{_SASL}.oauthbearer.OAuthBearerLoginModule "
            "required;",
            f"{name}.oauthbearer.sasl.server.callback.handler.class": f"{_SASL}.oauthbearer."
            "OAuthBearerValidatorCallbackHandler",
        }
    pairs = (f"{name}={value}" for name, value in properties.items())
    return ["--sasl", "--tls", *(part for pair in pairs for part in ("--set", pair))]


def allowed_urls(issuer: Issuer) -> dict[str, str]:
    """Return the variables with which brokers accept the addresses of an issuer."""
    allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={issuer.url}/jwks"
    return {"KAFKA_HEAP": f"-Xmx384m -Xms128m {allowed}"}
