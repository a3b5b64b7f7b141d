"""targets.py RUN_DIR NAME URL SEEDS: makes an account on a fresh server, signs it
in SEEDS times, and writes RUN_DIR/NAME.json: the load driver's targets.
RUN_DIR/NAME.body is what /users/me answers."""

import json
import os
import sys
import urllib.parse
import urllib.request

run, name, url, seeds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
here = os.path.dirname(os.path.abspath(__file__))
password = "violet-anchor-97-marmalade"
open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def call(path, body=None, **headers):
    with open_url(urllib.request.Request(url + path, body, headers)) as r:
        return r.read()


person = {"username": "ada", "email": "ada@example.com", "full_name": "Ada Lovelace", "password": password}
call("/auth/register", json.dumps(person).encode(), **{"Content-Type": "application/json"})
form = urllib.parse.urlencode({"grant_type": "password", "username": "ada", "password": password})
# Whoever signs in all the time is somebody else: an account keeps 500 sessions,
# and the oldest would be the one that asks for /users/me.
call("/auth/register", json.dumps(person | {"username": "grace", "email": "grace@example.com"}).encode(), **{"Content-Type": "application/json"})
storm = urllib.parse.urlencode({"grant_type": "password", "username": "grace", "password": password})
tokens = [json.loads(call("/token", form.encode())) for _ in range(seeds + 1)]
bearer = "Bearer " + tokens[0]["access_token"]
with open(f"{run}/{name}.body", "wb") as f:
    f.write(call("/users/me", Authorization=bearer))


def refresh(conns):
    """A target whose every run starts from sign-ins that no other used."""
    file = f"{run}/{name}-{conns}.seeds"
    return {
        "Name": f"{name} refresh {conns}", "URL": url + "/token/refresh", "Conns": conns,
        "Script": here + "/refresh.lua", "Env": {"SEEDS": file},
    }


targets = [{"Name": f"{name} /users/me", "URL": url + "/users/me", "Header": "Authorization: " + bearer}]
if seeds:
    targets += [refresh(8), refresh(32)]
    # A run takes 4 more than it has connections: 12 + 36.
    left = [t["refresh_token"] for t in tokens[1:]]
    few = len(left) * 12 // 48
    for t, part in zip(targets[1:], (left[:few], left[few:])):
        with open(t["Env"]["SEEDS"], "w") as f:
            f.write("\n".join(part) + "\n")
with open(f"{run}/{name}.json", "w") as f:
    json.dump(targets, f, indent=1)
signin = {
    "Name": f"{name} sign-in", "URL": url + "/token", "Conns": 2,
    "Script": here + "/signin.lua", "Env": {"FORM": storm},
}
with open(f"{run}/{name}-signin.json", "w") as f:
    json.dump([signin], f, indent=1)
