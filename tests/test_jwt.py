"""Tokens: what lets in, what does not, and whose keys are believed."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from config import AuthConfig, LimitConfig
from errors import CallError, ConfigError
from guards.auth.factory import make_authenticator

NOW = 1_800_000_000.0
SECRET = "a-secret-of-sixty-four-bytes-or-more-so-that-HS512-is-content-too"
CLAIMS = {"sub": "ada", "exp": NOW + 60}
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
LIMITS = LimitConfig(0, 0, 0, 0, 0)


class Door:
    """An authenticator with clocks that a test sets."""

    def __init__(self, algorithm="HS256", secret=SECRET, jwks="", **further):
        self.now = NOW
        self.monotonic = 0.0
        self.used = set()
        settings = {
            "mode": "jwt",
            "keys_file": Path("keys.ini"),
            "jwt_algorithm": algorithm,
            "jwt_secret": secret,
            "jwt_jwks": str(jwks),
            "jwt_issuer": "",
            "jwt_audience": "",
            "jwt_leeway_s": 0,
            "jwt_single_use": False,
        }
        config = AuthConfig(**(settings | further))
        self.authenticator = make_authenticator(
            config,
            LIMITS,
            clock=lambda: self.monotonic,
            wall_clock=lambda: self.now,
            first_use=self.first_use,
        )

    async def first_use(self, key, ttl_s):
        assert ttl_s > 0
        first = key not in self.used
        self.used.add(key)
        return first

    async def name(self, token):
        return (await self.authenticator.authenticate(f"Bearer {token}")).name

    async def reason(self, token):
        with pytest.raises(CallError) as caught:
            await self.name(token)
        assert caught.value.code == "unauthenticated"
        return caught.value.reason


def signed(claims=CLAIMS, key=SECRET, algorithm="HS256", kid=None, **further):
    headers = None if kid is None else {"kid": kid}
    return jwt.encode(claims | further, key, algorithm, headers)


def jwk(key, kid="1", **further):
    maker = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
    return maker.to_jwk(key.public_key(), as_dict=True) | {"kid": kid} | further


def key_set(path, *documents):
    file = path / "jwks.json"
    file.write_text(json.dumps({"keys": documents}))
    return file


async def test_a_good_token_names_its_subject():
    assert await Door().name(signed()) == "ada"


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ({"exp": NOW - 1}, "expired"),
        ({"exp": NOW}, "expired"),
        ({"nbf": NOW + 1}, "not_yet_valid"),
        ({"exp": "soon"}, "malformed"),
        ({"exp": float("inf")}, "malformed"),
        ({"sub": ""}, "subject"),
        ({"sub": "a\nb"}, "subject"),
        ({"sub": "a" * 129}, "subject"),
        ({"aud": "somebody"}, "audience"),
    ],
)
async def test_bad_claims(claims, told):
    assert await Door().reason(signed(CLAIMS | claims)) == told


@pytest.mark.parametrize("missing", ["exp", "sub"])
async def test_a_token_without_end_or_subject(missing):
    claims = {name: value for name, value in CLAIMS.items() if name != missing}
    assert await Door().reason(signed(claims)) == "claim_missing"


@pytest.mark.parametrize(
    ("settings", "claims", "told"),
    [
        ({"jwt_audience": "sluice"}, {"aud": "sluice"}, None),
        ({"jwt_audience": "sluice"}, {"aud": ["x", "sluice"]}, None),
        ({"jwt_audience": "sluice"}, {"aud": "other"}, "audience"),
        ({"jwt_audience": "sluice"}, {}, "claim_missing"),
        ({"jwt_issuer": "https://login"}, {"iss": "https://login"}, None),
        ({"jwt_issuer": "https://login"}, {"iss": "https://evil"}, "issuer"),
        ({"jwt_issuer": "https://login"}, {}, "claim_missing"),
        ({"jwt_leeway_s": 30}, {"exp": NOW - 29}, None),
        ({"jwt_leeway_s": 30}, {"exp": NOW - 31}, "expired"),
        ({"jwt_leeway_s": 30}, {"nbf": NOW + 29}, None),
    ],
)
async def test_issuer_audience_and_leeway(settings, claims, told):
    door, token = Door(**settings), signed(CLAIMS | claims)
    if told is None:
        assert await door.name(token) == "ada"
    else:
        assert await door.reason(token) == told


async def test_other_signatures():
    door = Door()
    head, body, tail = signed().split(".")
    assert await door.reason(signed(key=SECRET[::-1])) == "signature"
    assert await door.reason(jwt.encode(CLAIMS, "", "none")) == "algorithm"
    assert await door.reason(signed(algorithm="HS512")) == "algorithm"
    assert await door.reason(f"{head}.{body}.") == "signature"
    assert await door.reason(f"{head}.{body}") == "malformed"
    assert await door.reason("a" * 7000) == "malformed"
    deep = jwt.utils.base64url_encode(b"[" * 5000).decode()
    assert await door.reason(f"{deep}.{body}.{tail}") == "malformed"


async def test_a_public_key_is_never_taken_for_a_secret(tmp_path):
    door = Door("RS256", "", key_set(tmp_path, jwk(RSA_KEY)))
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = jwt.utils.base64url_encode(b'{"alg":"HS256","typ":"JWT","kid":"1"}').decode()
    body = signed().split(".")[1]
    forged = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    mac = forged.sign(f"{head}.{body}".encode(), pem)
    tail = jwt.utils.base64url_encode(mac).decode()
    assert await door.reason(f"{head}.{body}.{tail}") == "algorithm"


async def test_a_secret_in_a_key_set_is_never_used(tmp_path):
    secret = {"kty": "oct", "kid": "1", "k": jwt.utils.base64url_encode(SECRET.encode()).decode()}
    door = Door("RS256", "", key_set(tmp_path, secret, jwk(RSA_KEY, "2")))
    assert await door.reason(signed(kid="1")) == "unknown_key"


@pytest.mark.parametrize(("algorithm", "key"), [("RS256", RSA_KEY), ("ES256", EC_KEY)])
async def test_public_keys_from_a_file(tmp_path, algorithm, key):
    door = Door(algorithm, "", key_set(tmp_path, jwk(RSA_KEY, "r"), jwk(EC_KEY, "e")))
    kid = "r" if algorithm == "RS256" else "e"
    assert await door.name(signed(key=key, algorithm=algorithm, kid=kid)) == "ada"
    assert await door.name(signed(key=key, algorithm=algorithm, sub="bob")) == "bob"
    other = OTHER_RSA_KEY if algorithm == "RS256" else ec.generate_private_key(ec.SECP256R1())
    assert await door.reason(signed(key=other, algorithm=algorithm, kid=kid)) == "signature"
    assert await door.reason(signed(key=key, algorithm=algorithm, kid="x")) == "unknown_key"


async def test_keys_for_other_uses_are_not_taken(tmp_path):
    file = key_set(tmp_path, jwk(RSA_KEY, use="enc"), {"kty": "RSA", "kid": "2"})
    door = Door("RS256", "", file)
    assert await door.reason(signed(key=RSA_KEY, algorithm="RS256", kid="1")) == "unknown_key"


async def test_a_new_key_is_found_and_an_unknown_one_not_looked_for_too_often(tmp_path):
    file = key_set(tmp_path, jwk(RSA_KEY))
    door = Door("RS256", "", file)
    await door.name(signed(key=RSA_KEY, algorithm="RS256", kid="1"))
    key_set(tmp_path, jwk(OTHER_RSA_KEY, "2"))
    token = signed(key=OTHER_RSA_KEY, algorithm="RS256", kid="2", exp=NOW + 999)
    assert await door.reason(token) == "unknown_key"
    door.monotonic += 61
    assert await door.name(token) == "ada"


async def test_a_bad_file_keeps_the_old_keys(tmp_path, caplog):
    file = key_set(tmp_path, jwk(RSA_KEY))
    door = Door("RS256", "", file)
    token = signed(key=RSA_KEY, algorithm="RS256", kid="1", exp=NOW + 9999)
    await door.name(token)
    file.write_text("{")
    door.monotonic += 3700
    assert await door.name(signed(key=RSA_KEY, algorithm="RS256", kid="1", exp=NOW + 9998)) == "ada"
    assert [record.msg for record in caplog.records] == ["jwks_bad"]


class KeyServer:
    """Serves a key set on loopback."""

    def __init__(self) -> None:
        self.fetches = 0
        self.document: object = {"keys": [jwk(RSA_KEY)]}
        outer = self

        class Handler(RequestHandler):
            async def get(self) -> None:
                outer.fetches += 1
                await asyncio.sleep(0)
                self.write(json.dumps(outer.document))

        self._server = HTTPServer(Application([("/", Handler)]))
        sockets = bind_sockets(0, "127.0.0.1")
        self._server.add_sockets(sockets)
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/"
        self.stop: Callable[[], None] = self._server.stop


@pytest.fixture
def key_server(io_loop):
    async def start():
        return KeyServer()

    server = io_loop.run_sync(start)
    yield server
    server.stop()


async def test_an_address_is_fetched_once_for_all_who_wait(key_server):
    door = Door("RS256", "", key_server.url)
    tokens = [signed(key=RSA_KEY, algorithm="RS256", kid="1", sub=f"s{n}") for n in range(20)]
    names = await asyncio.gather(*(door.name(token) for token in tokens))
    assert names == [f"s{n}" for n in range(20)]
    assert key_server.fetches == 1


async def test_an_address_that_does_not_answer_is_our_trouble_not_the_callers(key_server):
    door = Door("RS256", "", key_server.url)
    key_server.stop()
    with pytest.raises(CallError) as caught:
        await door.name(signed(key=RSA_KEY, algorithm="RS256", kid="1"))
    assert (caught.value.code, caught.value.reason) == ("overloaded", "jwks_unavailable")


async def test_a_checked_token_is_remembered_but_not_beyond_its_end(monkeypatch):
    door, token = Door(), signed()
    await door.name(token)
    monkeypatch.setattr(jwt, "decode", None)
    assert await door.name(token) == "ada"
    monkeypatch.undo()
    door.now = NOW + 60
    assert await door.reason(token) == "expired"


async def test_a_token_for_one_use():
    door = Door(jwt_single_use=True)
    token = signed(jti="1")
    assert await door.name(token) == "ada"
    assert await door.reason(token) == "replayed"
    assert await door.name(signed(jti="2")) == "ada"
    assert await door.reason(signed()) == "claim_missing"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"secret": ""}, "SLUICE_AUTH_JWT_SECRET: must have at least 32 bytes"),
        ({"secret": "short"}, "SLUICE_AUTH_JWT_SECRET: must have at least 32 bytes"),
        ({"jwks": "x"}, "jwt_jwks: is for RS256 and ES256"),
        ({"algorithm": "RS256"}, "SLUICE_AUTH_JWT_SECRET: is for HS256"),
        ({"algorithm": "ES256", "secret": ""}, "jwt_jwks: ES256 needs an address or a file"),
    ],
)
def test_settings_that_leave_open_who_may_sign_stop_the_start(settings, told):
    with pytest.raises(ConfigError, match=told):
        Door(**settings)


async def test_a_withdrawn_key_stops_even_where_the_wall_clock_was_set_back(tmp_path):
    door = Door("RS256", "", key_set(tmp_path, jwk(RSA_KEY)))
    token = signed(exp=NOW + 10**6, key=RSA_KEY, algorithm="RS256", kid="1")
    assert await door.name(token) == "ada"
    key_set(tmp_path, jwk(OTHER_RSA_KEY, kid="2"))
    door.now -= 86_400
    door.monotonic += 3601  # remembered tokens are forgotten, and the set is stale
    assert await door.reason(token) == "unknown_key"


@pytest.mark.parametrize("exp", [1e300, 10**30, -1, True])
async def test_an_instant_beyond_any_calendar_is_none(exp):
    assert await Door(jwt_single_use=True).reason(signed(exp=exp, jti="1")) in (
        "malformed",
        "expired",
    )
