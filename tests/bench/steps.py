#!/usr/bin/env python3
"""Synchronous steps: calibd beside Gloo's all-reduce, on this machine; prints one JSON object.

    python3 tests/bench/steps.py [--build build] [--quick]

Every rank is a process of its own, and takes one step after the other: a step begins for a rank when it calls, and ends
when it has what all ranks together observed. Works (gloo_rank.py, step_rank.cc) take turns; quantiles are over all
ranks and steps of a turn, medians over the turns, and ratios are taken turn by turn.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LAYERS = 100
WORLDS = (2, 4, 8)
WORKS = ("per_layer", "fused", "calibd")
# Of a turn, so that each takes about as long; the first one warms up.
STEPS = {"per_layer": 8, "fused": 50, "calibd": 300}


class Ranks:
    """Processes that take steps together."""

    def __init__(self, commands):
        self.processes = []
        for command in commands:
            self.processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                                   env=dict(os.environ, OMP_NUM_THREADS="1")))

    @staticmethod
    def read(process):
        """The next line of a rank, which is JSON."""
        line = process.stdout.readline()
        if not line:
            sys.exit(f"steps.py: {' '.join(process.args)} ended with {process.wait()}")
        return json.loads(line)

    def greet(self):
        """Waits until all are ready; what the first one says of itself."""
        return [self.read(process) for process in self.processes][0]

    def run(self, work, world, steps):
        """Seconds of all steps of all ranks; the first step of each does not count."""
        for process in self.processes[:world]:
            process.stdin.write(f"{work} {world} {steps + 1}\n")
            process.stdin.flush()
        return [seconds for process in self.processes[:world] for seconds in self.read(process)[1:]]

    def end(self):
        """Lets all end, and waits for it."""
        for process in self.processes:
            process.stdin.close()
        codes = [process.wait() for process in self.processes]
        if any(codes):
            sys.exit(f"steps.py: ranks ended with {codes}")

    def kill(self):
        for process in self.processes:
            process.kill()
            process.wait()


def debian_python():
    """The interpreter that sees Debian's python3-torch."""
    return "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


def has_torch():
    check = "import sys, torch.distributed as d; sys.exit(not (d.is_available() and d.is_gloo_available()))"
    return subprocess.run([debian_python(), "-c", check], stderr=subprocess.DEVNULL, check=False).returncode == 0


def gloo_commands(folder):
    for rank in range(WORLDS[-1]):
        yield [debian_python(), os.path.join(HERE, "gloo_rank.py"), "--rank", str(rank), "--layers", str(LAYERS),
               "--worlds", ",".join(map(str, WORLDS)), "--rendezvous", os.path.join(folder, "rendezvous")]


def start_server(build):
    """A calibd process, and its address."""
    command = [os.path.join(build, "bin", "calibd"), "--store", "memory", "--listen", "127.0.0.1:0", "--http", ""]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    address = next((word[len("grpc="):] for word in line.split() if word.startswith("grpc=")), None)
    if address is None:
        sys.exit(f"steps.py: calibd ended with {process.wait()}")
    return process, address


def quantile(values, share):
    """The least value that at least this share is not above."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def summarize(world, turns):
    """One row: quantiles of each work, and how many times as long a step of calibd's each peer's takes."""
    row = {"ranks": world, "layers": LAYERS}
    p50 = {}
    for work, seconds in turns.items():
        p50[work] = [quantile(turn, 0.5) for turn in seconds]
        row[work] = {"p50_ms": 1e3 * statistics.median(p50[work]),
                     "p90_ms": 1e3 * statistics.median(quantile(turn, 0.9) for turn in seconds)}
    for work in WORKS[:-1]:
        if work in p50:
            row[f"ratio_to_{work}"] = statistics.median(
                peer / own for peer, own in zip(p50[work], p50["calibd"]))
    return row


def measure(ranks_of, rounds, quick):
    """Rows of all worlds; `ranks_of` has the processes of each work that there is."""
    turns = {world: {work: [] for work in WORKS if work in ranks_of} for world in WORLDS}
    for _ in range(rounds):
        for world in WORLDS:
            for work, seconds in turns[world].items():
                steps = max(1, STEPS[work] // 50) if quick else STEPS[work]
                seconds.append(ranks_of[work].run(work, world, steps))
    return [summarize(world, turns[world]) for world in WORLDS]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of a few steps: a check that it works")
    arguments = parser.parse_args()

    result = {"missing": [], "steps": []}
    groups = []
    server, address = start_server(arguments.build)
    try:
        with tempfile.TemporaryDirectory() as folder:
            step_rank = os.path.join(arguments.build, "bin", "step_rank")
            groups.append(Ranks([step_rank, "--server", address, "--rank", str(rank), "--layers", str(LAYERS)]
                                for rank in range(WORLDS[-1])))
            groups[0].greet()
            ranks_of = {"calibd": groups[0]}
            if has_torch():
                groups.append(Ranks(gloo_commands(folder)))
                ranks_of.update({work: groups[1] for work in WORKS[:-1]})
                result.update(groups[1].greet())
            else:
                result["missing"].append("torch with Gloo")
            result["steps"] = measure(ranks_of, 1 if arguments.quick else arguments.rounds, arguments.quick)
            for group in groups:
                group.end()
            server.terminate()
            if server.wait() != 0:
                sys.exit(f"steps.py: calibd ended with {server.returncode}")
    finally:
        for group in groups:
            group.kill()
        server.kill()
        server.wait()
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
