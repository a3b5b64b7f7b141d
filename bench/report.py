"""report.py RUN_DIR: the table of figures from what bench/run measured. Exits 1
if one of them misses its goal."""

import json
import os
import statistics as st
import sys

run = sys.argv[1]
TUTORIAL, ASYNC = "fastapi tutorial", "fastapi async"


def read(name):
    try:
        with open(f"{run}/{name}") as f:
            return f.read()
    except FileNotFoundError:
        return ""


# A visit is [round, req/s, p50, p99, refused, socket errors, processor µs per request].
RATE, REFUSED, CPU = 1, 4, 6
visits = json.loads(read("load.json") or "{}")


def least(target):
    """The least processor time of a target's visits: what else runs on the machine,
    and on the one beneath it, only ever adds. A visit whose single-use tokens ran
    out was answered with refusals, which cost less."""
    whole = [v for v in visits[target] if not v[REFUSED]]
    return min(v[CPU] for v in whole or visits[target])


def ratio(ours, theirs, column):
    """How many times as many requests ours answers: of the wall clock by rounds, of
    the processor by the best visit of each."""
    if not visits.get(ours) or not visits.get(theirs):
        return None
    if column == CPU:
        return least(theirs) / least(ours)
    other = {v[0]: v[RATE] for v in visits[theirs]}
    return st.median(v[RATE] / other[v[0]] for v in visits[ours] if v[0] in other)


def pair(ours, theirs):
    a, b = ratio(ours, theirs, CPU), ratio(ours, theirs, RATE)
    if a is None:
        return None
    return a, f"{a:.3g} × by processor time, {b:.3g} × by the clock"


rows = []  # figure, goal, measured, verdict


def row(figure, goal, got, ok=None):
    rows.append((figure, goal, got, "" if ok is None else "ok" if ok else "MISSED"))


def compare(figure, ours, theirs, goal=None):
    got = pair(ours, theirs)
    want = "" if goal is None else f"≥ {goal} ×"
    if got is None:
        row(figure, want, "left out")
    else:
        row(figure, want, got[1], None if goal is None else got[0] >= goal)


ms, mb = map(float, read("startup").split())
row("from no database to the first answer", "< 1 s", f"{ms / 1000:.2f} s", ms < 1000)
row("resident memory then", "< 60 MB", f"{mb:.0f} MB", mb < 60)

def share(figure, ours, theirs, goal=None):
    """What part of the rate is left, by processor time."""
    got = pair(ours, theirs)
    want = "" if goal is None else f"≥ {goal:.2f}"
    if got is None:
        row(figure, want, "left out")
    else:
        row(figure, want, f"{got[0]:.3f} by processor time, {ratio(ours, theirs, RATE):.3f} by the clock", None if goal is None else got[0] >= goal)


share("a route behind the whole chain, of a bare net/http handler", "chain /items", "bare", 0.90)
share("  with an API key, of the same with a token", "chain key", "chain /items", 0.90)
share("  with the limit on all requests, of the same without", "limited /items", "chain /items")
share("  /users/me, of the bare handler", "chain /users/me", "bare", 0.80)
share("  the bare handler with the same headers, of the bare handler", "bare headers", "bare")
share("  when nothing is in memory (signature and database)", "cold /items in turn", "bare")
share("  golang-jwt, the signature alone at every request", "golang-jwt", "bare")
share("  go-jose, the signature alone at every request", "go-jose", "bare")
share("  with a million sessions in memory and a million ended", "million /items", "chain /items", 0.90)
share("    asked with 20,000 of them in turn", "million /items in turn", "chain /items")
for line in read("million.log").splitlines():
    if line.startswith("memory "):
        row("    memory for each of them", "< 250 B", line.removeprefix("memory ").split(" ")[0] + " B", float(line.split()[1]) < 250)
compare("the same route over the FastAPI tutorial's /users/me", "chain /items", f"{TUTORIAL} /users/me", 60)
compare("  over FastAPI's async form", "chain /items", f"{ASYNC} /users/me", 40)

me = "sallyport /users/me"
compare("the server's /users/me over the FastAPI tutorial's", me, f"{TUTORIAL} /users/me", 60)
compare("  with the default log level", "sallyport-info /users/me", f"{TUTORIAL} /users/me")
compare("  over FastAPI's async form", me, f"{ASYNC} /users/me", 40)
if read("storm"):
    p50, p99, signed, broken = map(float, read("storm").split())
    refused = f", {broken:.0f} refused" if broken else ""
    row("  its p99 while 64 clients sign in", "< 20 ms", f"{p99:.1f} ms (p50 {p50:.2f} ms, {signed:.0f} sign-ins a second{refused})", p99 < 20 and broken == 0)

hashes = [tuple(map(float, line.split())) for line in read("hashes").splitlines()]
rounds = [json.loads(line)["sallyport sign-in"][0] for line in read("signins").splitlines()]
clock = st.median(s[RATE] / h[0] for s, h in zip(rounds, hashes))
cpu = min(h[1] for h in hashes) / min(s[CPU] for s in rounds)
visits["sallyport sign-in"] = rounds
row("sign-ins over the bare hash", "≥ 0.9 ×", f"{cpu:.3g} × by processor time, {clock:.3g} × by the clock", cpu >= 0.9)

compare("refresh rotations over the FastAPI tutorial's", "sallyport refresh 8", f"{TUTORIAL} POST /token/refresh", 15)
compare("  both with 32 connections, not 8", "sallyport refresh 32", f"{TUTORIAL} refresh 32")
compare("  with the default log level", "sallyport-info refresh 8", f"{TUTORIAL} POST /token/refresh")
compare("  over FastAPI's async form", "sallyport refresh 8", f"{ASYNC} POST /token/refresh")

width = [max(len(r[i]) for r in rows) for i in range(4)]
print()
for r in [("figure", "goal", "measured", "")] + rows:
    print("  ".join(c.ljust(w) for c, w in zip(r, width)).rstrip())
print("\nleast processor time of a visit, in microseconds a request:")
for t in sorted(visits, key=lambda t: min((v[CPU] for v in visits[t]), default=0)):
    if visits[t]:
        print(f"{t:<36}{least(t):>9.1f}")
refused = {t: sum(v[REFUSED] for v in vs) for t, vs in visits.items() if not t.startswith("fastapi")}
broken = {t: n for t, n in refused.items() if n}
for t, n in broken.items():
    print(f"{t}: {n} answers were no success: its figure says nothing")
sys.exit(bool(broken) or any(r[3] == "MISSED" for r in rows))
