"""startup.py BINARY RUN_DIR RUNS: the median time in milliseconds from starting
the server with no database to its first answer of /readyz, and the median
resident memory in MB just after."""

import http.client
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time

binary, run, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])


def once():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    data = run + "/fresh"
    shutil.rmtree(data, ignore_errors=True)
    began = time.monotonic()
    p = subprocess.Popen(
        ["taskset", "-c", "0", binary, "serve", "--quiet", "--listen", f"127.0.0.1:{port}", "--data", data],
        env={"GOMAXPROCS": "1", "PATH": os.environ["PATH"]}, stderr=subprocess.DEVNULL)
    try:
        while time.monotonic() < began + 10 and p.poll() is None:
            try:
                c = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                c.request("GET", "/readyz")
                if c.getresponse().status == 200:
                    took = time.monotonic() - began
                    status = open(f"/proc/{p.pid}/status").read()
                    return took * 1000, int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024 / 1e6
            except OSError:
                time.sleep(0.001)
        sys.exit("the server did not answer within 10 s")
    finally:
        p.terminate()
        p.wait()


ms, mb = zip(*(once() for _ in range(runs)))
print(f"{statistics.median(ms):.1f} {statistics.median(mb):.1f}")
