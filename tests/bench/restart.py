#!/usr/bin/env python3
"""Restart on a full store: the time until calibd is ready, and its memory then; prints one JSON object.

    python3 tests/bench/restart.py [--build build] [--quick]

fill_store writes the store through the server's own Store, 1,000 sessions of 100 layers with histograms of some 30
pages each. Then calibd is started on it several times, and killed each time once it is ready; medians. The store is in
the page cache: the disk's own speed is not measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


def folder_bytes(path):
    """Bytes of all files below a folder."""
    return sum(os.path.getsize(os.path.join(folder, file)) for folder, _, files in os.walk(path) for file in files)


def resident_bytes(pid):
    """What a process has in memory."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        line = next(line for line in file if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def start_once(build, store):
    """Seconds from the start of calibd to its line "ready", and its resident bytes then."""
    command = [os.path.join(build, "bin", "calibd"), "--store", f"rocksdb:{store}", "--listen", "127.0.0.1:0",
               "--http", ""]
    begin = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True)
    try:
        line = process.stdout.readline()
        seconds = time.monotonic() - begin
        if " ready " not in line:
            sys.exit(f"restart.py: calibd ended with {process.wait()}")
        return seconds, resident_bytes(process.pid)
    finally:
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small store, once: a check that it works")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sessions, arguments.layers, arguments.repetitions = 10, 10, 1

    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        fill = [os.path.join(arguments.build, "bin", "fill_store"), "--path", store, "--sessions",
                str(arguments.sessions), "--layers", str(arguments.layers)]
        if subprocess.run(fill, check=False).returncode != 0:
            sys.exit("restart.py: fill_store failed")
        starts = [start_once(arguments.build, store) for _ in range(arguments.repetitions)]
        print(json.dumps({"sessions": arguments.sessions, "layers": arguments.layers,
                          "store_bytes": folder_bytes(store),
                          "ready_seconds": statistics.median(seconds for seconds, _ in starts),
                          "resident_bytes": statistics.median(resident for _, resident in starts)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
