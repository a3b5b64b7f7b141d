"""storm.py ME.json SIGNIN.json: how long /users/me takes, in milliseconds at the
50th and the 99th percentile, while 64 clients sign in without a pause."""

import json
import os
import re
import subprocess
import sys
import time

me, signin = (json.load(open(name))[0] for name in sys.argv[1:3])
wrk = ["taskset", "-c", "1", "wrk", "-t1", "--timeout", "30s", "--latency"]


def ms(percent, text):
    value, unit = re.search(percent + r"%\s+([\d.]+)(us|ms|s)", text).groups()
    return float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


storm = subprocess.Popen(
    wrk + ["-c64", "-d12s", "-s", signin["Script"], signin["URL"]],
    env={**os.environ, **signin["Env"]}, stdout=subprocess.PIPE, text=True)
time.sleep(2)
out = subprocess.run(wrk + ["-c4", "-d8s", "-H", me["Header"], me["URL"]], capture_output=True, text=True).stdout
signed = re.search(r"Requests/sec:\s+([\d.]+)", storm.communicate()[0])[1]
refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
print(ms("50", out), ms("99", out), signed, refused[1] if refused else 0)
