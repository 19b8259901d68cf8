#!/usr/bin/env python3
"""Runs every benchmark beside its peers on this machine and prints one table and one JSON object.

    python3 tests/bench/run.py [--build build] [--quick] [--json FILE]

Everything of one row was measured in this one run. --quick runs each thing once and briefly: a check that the
benchmarks work, whose figures mean nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
FLEET = "fleet/"
REAL_TIME = "/real_time"  # what Google Benchmark adds to the names of benchmarks with several threads


def run(command, **kwargs):
    """Standard output of a command; ends this program when it fails."""
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, **kwargs)
    if process.returncode != 0:
        sys.exit(f"run.py: {' '.join(command)} failed with {process.returncode}")
    return process.stdout


def quant(arguments):
    """Median figures of quant_bench by name: elements per second, or seconds where there are no items."""
    options = ["--benchmark_format=json"]
    if arguments.quick:
        options += ["--benchmark_min_time=0.001"]
    else:
        options += ["--benchmark_min_time=0.2", "--benchmark_repetitions=5",
                    "--benchmark_enable_random_interleaving=true", "--benchmark_report_aggregates_only=true"]
    output = json.loads(run([os.path.join(arguments.build, "bin", "quant_bench"), *options]))
    unit = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
    rates, seconds = {}, {}
    for entry in output["benchmarks"]:
        if entry.get("aggregate_name", "median") != "median":
            continue
        if entry.get("error_occurred"):
            sys.exit(f"run.py: {entry['run_name']}: {entry['error_message']}")
        name = entry["run_name"]
        if "items_per_second" in entry:
            rates[name] = entry["items_per_second"]
        elif name.endswith(REAL_TIME):
            seconds[name[:-len(REAL_TIME)]] = entry["real_time"] * unit[entry["time_unit"]]
        else:
            seconds[name] = entry["cpu_time"] * unit[entry["time_unit"]]
    return rates, seconds


# Debian's interpreter is the one that sees Debian's python3-torch.
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


def peers(arguments):
    """Figures of NumPy and PyTorch."""
    options = ["--elements", str(1 << 20), "--repetitions", "1"] if arguments.quick else []
    environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        file.write(run([os.path.join(arguments.build, "bin", "layer_histogram")]))
        file.flush()
        options += ["--histogram", file.name]
        return json.loads(run([PYTHON, os.path.join(HERE, "peers.py"), *options], env=environment))


def watch(arguments):
    """What observing a CNN's modules adds to its forward pass, in PyTorch."""
    options = ["--sizes", "8", "--batches", "2", "--repetitions", "1"] if arguments.quick else []
    package = os.path.join(arguments.build, "python")
    environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", PYTHONPATH=package)
    return json.loads(run([PYTHON, os.path.join(HERE, "watch_overhead.py"), *options], env=environment))


def layer_rows(seconds, peer_seconds):
    """Rows of the table of one layer: microseconds, and how many times as long the peer of that row takes."""
    torch = {name.split()[-1]: value for name, value in peer_seconds.items()}
    beside = {"search/l2_greedy/2048 bins": torch.get("_non_linear_param_search"),
              "search/entropy/8001 bins": seconds["search/entropy/8001 bins/direct"]}
    beside.update((name, torch.get("calculate_qparams")) for name in seconds if name.startswith("qparams/mse/int8/"))
    rows = []
    for name, value in {**seconds, **peer_seconds}.items():
        if not name.startswith(FLEET):
            rows.append([name, f"{value * 1e6:.1f}", f"{beside[name] / value:.1f}" if beside.get(name) else ""])
    return rows


def watch_rows(result):
    """Rows of the table of watched forward passes."""
    rows = []
    for row in result["watch"]:
        height, width = row["images"][2:]
        rows.append([f"{row['modules']} modules, {row['elements'] / 1e6:.0f} M values, images of {height}x{width}",
                     f"{row['bare_ms']:.0f}", f"{row['watch_overhead_ms']:.0f}",
                     f"{row['histogram_observer_overhead_ms']:.0f}", f"{row['ratio']:.1f}"])
    return rows


def ingest(arguments):
    """Ratios of ingestion to a bare gRPC stream."""
    options = ["--repetitions", "1", "--scale", "0.01"] if arguments.quick else []
    return json.loads(run([os.path.join(arguments.build, "bin", "ingest_bench"), *options]))


def steps(arguments):
    """Latencies of synchronous steps, and how many times as long Gloo's all-reduces take."""
    options = ["--quick"] if arguments.quick else []
    return json.loads(run([sys.executable, os.path.join(HERE, "steps.py"), "--build", arguments.build, *options]))


def checkpoints(arguments):
    """What commits to a disk cost ingestion."""
    options = ["--repetitions", "1", "--messages", "20"] if arguments.quick else []
    return json.loads(run([os.path.join(arguments.build, "bin", "checkpoint_bench"), *options]))


def restart(arguments):
    """Time to ready on a full store."""
    options = ["--quick"] if arguments.quick else []
    return json.loads(run([sys.executable, os.path.join(HERE, "restart.py"), "--build", arguments.build, *options]))


def step_rows(result):
    """Rows of the table of synchronous steps."""
    rows = []
    for row in result["steps"]:
        cells = [f"{row['ranks']} ranks, {row['layers']} layers"]
        for work in ("calibd", "fused", "per_layer"):
            cells += [f"{row[work][key]:.2f}" for key in ("p50_ms", "p90_ms")] if work in row else ["", ""]
        for peer in ("fused", "per_layer"):
            cells.append(f"{row[f'ratio_to_{peer}']:.1f}" if f"ratio_to_{peer}" in row else "")
        rows.append(cells)
    return rows


def print_table(title, header, rows):
    """One aligned table."""
    rows = [header, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    print(f"\n{title}")
    for number, row in enumerate(rows):
        print("  " + "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(row, widths))))
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", help="write the JSON object here instead of to standard output")
    arguments = parser.parse_args()

    rates, seconds = quant(arguments)
    peer = peers(arguments)
    watched = watch(arguments)
    ingestion = ingest(arguments)
    synchronous = steps(arguments)
    checkpointing = checkpoints(arguments)
    restarted = restart(arguments)

    torch = next((rate for name, rate in peer["rates"].items() if "HistogramObserver/gaussian" in name), None)
    rows = []
    for name, rate in {**rates, **peer["rates"]}.items():
        beside = f"{rate / torch:.2f}" if torch and ("gaussian" in name or "relu" in name) else ""
        rows.append([name, f"{rate / 1e9:.3f}", beside])
    print_table("Observe pass, one core", ["", "G elements/s", "x torch HistogramObserver"], rows)
    for name in peer["missing"]:
        print(f"  (not measured: {name} is not installed)")
    print_table("One layer, one core; mse and l2_greedy beside torch, entropy beside a direct evaluation as MXNet's",
                ["", "microseconds", "x"], layer_rows(seconds, peer["seconds"]))
    print_table("All layers", ["", "milliseconds"],
                [[name, f"{value * 1e3:.1f}"] for name, value in seconds.items() if name.startswith(FLEET)])
    print_table("Forward passes of a CNN, CPU milliseconds: calibd.torch.watch, and HistogramObserver on every module",
                ["", "bare", "watch adds", "HistogramObserver adds", "x"], watch_rows(watched))
    for name in watched["missing"]:
        print(f"  (not measured: {name} is not installed)")
    print_table("Ingestion, one stream, beside a bare gRPC stream that discards the same bytes",
                ["", "calibd MiB/s", "bare MiB/s", "ratio", "bare, malloc set alike", "ratio", "rows/s"],
                [[row["work"], f"{row['calibd_mib_per_s']:.0f}", f"{row['bare_mib_per_s']:.0f}", f"{row['ratio']:.2f}",
                  f"{row['bare_tuned_mib_per_s']:.0f}", f"{row['ratio_to_tuned']:.2f}",
                  f"{row['calibd_rows_per_s']:.0f}"] for row in ingestion])
    print_table("Synchronous steps, milliseconds, beside Gloo: one all-reduce a step, and two a layer as MegEngine's",
                ["", "calibd p50", "p90", "one p50", "p90", "two a layer p50", "p90", "x one", "x two a layer"],
                step_rows(synchronous))
    for name in synchronous["missing"]:
        print(f"  (not measured: {name} is not installed)")
    print_table("Checkpoints: histogram updates into RocksDB with a commit each second, beside memory without any",
                ["", "RocksDB updates/s", "memory updates/s", "overhead"],
                [[f"{checkpointing['streams']} streams, {checkpointing['layers']} layers",
                  f"{checkpointing['rocksdb_updates_per_s']:.0f}", f"{checkpointing['memory_updates_per_s']:.0f}",
                  f"{100 * checkpointing['overhead']:.1f} %"]])
    print_table("Restart on a full store", ["", "seconds to ready", "resident MiB", "store MiB"],
                [[f"{restarted['sessions']} sessions, {restarted['layers']} layers each",
                  f"{restarted['ready_seconds']:.2f}", f"{restarted['resident_bytes'] / 2**20:.0f}",
                  f"{restarted['store_bytes'] / 2**20:.0f}"]])
    print()
    text = json.dumps({"elements_per_second": {**rates, **peer["rates"]},
                       "seconds": {**seconds, **peer["seconds"]}, "watch": watched["watch"], "ingestion": ingestion,
                       "steps": synchronous["steps"],
                       "checkpoints": checkpointing, "restart": restarted}, indent=2)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
