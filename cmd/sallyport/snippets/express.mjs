// An Express service that takes Sallyport's access tokens, and verifies them itself.
//
//   npm install express jose
//   node app.mjs
//
// Who signs in, with a scope, sends the token as "Authorization: Bearer ...":
//
//   curl -d grant_type=password -d username=ada --data-urlencode password@FILE -d scope=read:items {{.URL}}/token
//
// A token is good until it expires, 15 minutes after it was issued, also when its
// session ends before. Where that is too long, ask Sallyport: POST {{.URL}}/token/introspect
// with an API key that may (introspect:tokens) answers {"active": false} within
// milliseconds; or put a proxy before the service (sallyport snippet nginx).

import express from "express";
import { createRemoteJWKSet, errors, jwtVerify } from "jose";

const issuer = "{{.Issuer}}"; // base_url of Sallyport: iss and aud of its tokens
// Read again after five minutes, and for a key that is not known, but not more often
// than every ten seconds: anybody can make up names.
const keys = createRemoteJWKSet(new URL("{{.URL}}/.well-known/jwks.json"), {
  cacheMaxAge: 300_000,
  cooldownDuration: 10_000,
  timeoutDuration: 5_000,
});

// What a token can do to be refused. Everything else is a fault of ours, and 503.
const wrong = [errors.JOSEError];
const ours = [errors.JWKSTimeout, errors.JWKSInvalid];

function refuse(res, error) {
  res.set("WWW-Authenticate", 'Bearer realm="app"' + (error ? `, error="${error}"` : ""));
  res.status(401).json({ detail: "A valid access token is required." });
}

// authenticate lets pass whoever sends a good access token, as req.user.
export async function authenticate(req, res, next) {
  const lines = req.headersDistinct.authorization ?? [];
  if (lines.length === 0) return refuse(res);
  const [, token] = /^bearer (\S{1,8192})$/i.exec(lines[0]) ?? [];
  if (lines.length > 1 || !token) return refuse(res, "invalid_token");
  try {
    const { payload } = await jwtVerify(token, keys, {
      issuer,
      audience: issuer,
      typ: "at+jwt", // an access token (RFC 9068); the same keys sign other things
      algorithms: ["EdDSA", "ES256", "RS256"],
      requiredClaims: ["exp", "iat", "sub"],
      clockTolerance: 5,
    });
    req.user = { id: payload.sub, session: payload.sid, scopes: new Set((payload.scope ?? "").split(" ").filter(Boolean)) };
  } catch (error) {
    const is = (kinds) => kinds.some((kind) => error instanceof kind);
    if (is(wrong) && !is(ours) && error.code !== "ERR_JOSE_GENERIC") return refuse(res, "invalid_token");
    console.error("the issuer's keys cannot be read:", error.message);
    return res.set("Retry-After", "1").status(503).json({ detail: "The issuer's keys cannot be read." });
  }
  next();
}

// requires lets pass whoever's token was issued with the scope. Sallyport gives a scope
// only to those who may; a token without any says nothing of what its owner may, and is
// refused.
export function requires(scope) {
  return [
    authenticate,
    (req, res, next) => {
      if (req.user.scopes.has(scope)) return next();
      res.set("WWW-Authenticate", `Bearer realm="app", error="insufficient_scope", scope="${scope}"`);
      res.status(403).json({ detail: `The token does not have the scope ${scope}.` });
    },
  ];
}

const app = express();
app.disable("x-powered-by");
app.get("/me", authenticate, (req, res) => res.json({ id: req.user.id }));
app.get("/items", requires("{{.Scope}}"), (req, res) => res.json({ items: ["a", "b"], for: req.user.id }));
app.listen(process.env.PORT ?? 3000, "127.0.0.1");
