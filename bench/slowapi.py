#!/usr/bin/env python3
"""Times the library under slowapi: one hit in memory, for each of many keys.

    bench/slowapi.py

slowapi decides with the package limits; its strategies "fixed-window" (the
default) and "moving-window" are timed, under 100/minute. Without the package
(Debian: apt-get install python3-limits) it says so and leaves the figures out.
"""
import time

try:
    import limits
    from limits.storage import MemoryStorage
    from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter
except ImportError:
    print("left out: there is no Python package limits here")
    raise SystemExit(0)

KEYS = [f"192.0.{i}" for i in range(1000)]
HITS = 100_000

rate = limits.parse("100/minute")
print(f"limits {limits.__version__}")
for name, strategy in [("fixed-window", FixedWindowRateLimiter), ("moving-window", MovingWindowRateLimiter)]:
    limiter = strategy(MemoryStorage())
    for key in KEYS:
        limiter.hit(rate, key)
    began = time.perf_counter()
    for i in range(HITS):
        limiter.hit(rate, KEYS[i % len(KEYS)])
    print(f"{name:14} {(time.perf_counter() - began) / HITS * 1e9:8.0f} ns a hit")
