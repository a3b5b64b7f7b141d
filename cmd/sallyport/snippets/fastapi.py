"""A FastAPI service that takes Sallyport's access tokens, and verifies them itself.

    pip install fastapi uvicorn "pyjwt[crypto]"
    uvicorn app:app --port 8000

Who signs in, with a scope, sends the token as "Authorization: Bearer ...":

    curl -d grant_type=password -d username=ada --data-urlencode password@FILE -d scope=read:items {{.URL}}/token

A token is good until it expires, 15 minutes after it was issued, also when its session
ends before. Where that is too long, ask Sallyport: POST {{.URL}}/token/introspect
with an API key that may (introspect:tokens) answers {"active": false} within
milliseconds; or put a proxy before the service (sallyport snippet nginx).
"""

import json
import logging
import threading
import time
import urllib.request
from dataclasses import dataclass

import jwt
from fastapi import Depends, FastAPI, HTTPException, Request

ISSUER = "{{.Issuer}}"  # base_url of Sallyport: iss and aud of its tokens
JWKS_URL = "{{.URL}}/.well-known/jwks.json"
# Of what the keys may be. The algorithm is the key's, and never what a token says.
ALGORITHMS = {"EdDSA", "ES256", "RS256"}


class Keys:
    """The issuer's public keys, with their algorithms. They are read again after five minutes,
    and for a key that is not known, but not more often than every ten seconds: anybody can make
    up names. While the issuer is away, those that are known stay good for an hour."""

    MAX_AGE, MIN_AGE, GRACE = 300, 10, 3600

    def __init__(self, url):
        self.url, self.lock = url, threading.Lock()
        self.keys, self.read_at, self.tried_at = {}, None, None

    def get(self, kid):
        found = self.keys.get(kid)
        if found is None or self.age() > self.MAX_AGE:
            # One reads. The others wait for it, but for those whose key is known.
            if self.lock.acquire(blocking=found is None or self.age() > self.GRACE):
                try:
                    self.refresh()
                finally:
                    self.lock.release()
            if self.age() > self.GRACE:
                raise HTTPException(503, "The issuer's keys cannot be read.", {"Retry-After": "1"})
            found = self.keys.get(kid)
        return found

    def age(self):
        return float("inf") if self.read_at is None else time.monotonic() - self.read_at

    def refresh(self):
        now, pause = time.monotonic(), self.MIN_AGE if self.keys else 1
        if self.tried_at is not None and now - self.tried_at < pause:
            return
        self.tried_at = now
        try:
            with urllib.request.urlopen(self.url, timeout=5) as answer:
                found = json.loads(answer.read(1 << 20))["keys"]
            self.keys = {k["kid"]: (jwt.PyJWK(k, k["alg"]).key, k["alg"]) for k in found if k.get("alg") in ALGORITHMS}
            self.read_at = time.monotonic()
        except Exception as error:
            logging.getLogger("uvicorn.error").warning("the issuer's keys cannot be read: %s", error)


keys = Keys(JWKS_URL)


@dataclass(frozen=True)
class User:
    id: str
    session: str
    scopes: frozenset


def refused(error=""):
    challenge = 'Bearer realm="app"' + (f', error="{error}"' if error else "")
    return HTTPException(401, "A valid access token is required.", {"WWW-Authenticate": challenge})


def current_user(request: Request) -> User:
    """Whoever sends a good access token; 401 for everybody else."""
    lines = request.headers.getlist("authorization")
    if not lines:
        raise refused()
    scheme, _, token = lines[0].partition(" ")
    if len(lines) > 1 or scheme.lower() != "bearer" or len(token) > 8192:
        raise refused("invalid_token")
    try:
        header = jwt.get_unverified_header(token)
        kid = header.get("kid")
        # at+jwt is an access token (RFC 9068); the same keys sign other things.
        if header.get("typ") != "at+jwt" or "crit" in header or not isinstance(kid, str):
            raise refused("invalid_token")
        found = keys.get(kid)
        if found is None:
            raise refused("invalid_token")
        key, algorithm = found
        claims = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=ISSUER,
            audience=ISSUER,
            leeway=5,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )
    except (jwt.PyJWTError, RecursionError):  # the latter of a header that is nested deeply
        raise refused("invalid_token") from None
    return User(claims["sub"], claims.get("sid", ""), frozenset(claims.get("scope", "").split()))


def requires(scope: str):
    """Depends(requires("read:items")): whoever's token was issued with the scope. Sallyport
    gives a scope only to those who may; a token without any says nothing of what its owner
    may, and is refused."""

    def dependency(user: User = Depends(current_user)) -> User:
        if scope not in user.scopes:
            challenge = f'Bearer realm="app", error="insufficient_scope", scope="{scope}"'
            raise HTTPException(403, f"The token does not have the scope {scope}.", {"WWW-Authenticate": challenge})
        return user

    return dependency


app = FastAPI()


@app.get("/me")
def me(user: User = Depends(current_user)):
    return {"id": user.id}


@app.get("/items")
def items(user: User = Depends(requires("{{.Scope}}"))):
    return {"items": ["a", "b"], "for": user.id}
