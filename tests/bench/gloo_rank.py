"""One rank of torch.distributed over Gloo, on the loopback interface; steps.py starts as many as there are ranks.

Reads lines "WORK RANKS STEPS" from standard input, until it ends. Of each, ranks 0 to RANKS - 1 take STEPS steps
together, and print the seconds that each one took as a JSON list. The ranges of a step's layers are reduced
  per_layer  as MegEngine 1.13's SyncMinMaxObserver does: two blocking all-reduces of a scalar a layer, MIN and MAX;
  fused      in one blocking all-reduce: MAX over all negated minima and all maxima.
Needs PyTorch (Debian: python3-torch).
"""

import argparse
import json
import os
import sys
import time

os.environ["GLOO_SOCKET_IFNAME"] = "lo"

import torch  # pylint: disable=wrong-import-position
import torch.distributed as distributed  # pylint: disable=wrong-import-position


def per_layer(ranges, group):
    """Reduces each layer's min and max by itself."""
    for low, high in ranges:
        distributed.all_reduce(low, op=distributed.ReduceOp.MIN, group=group)
        distributed.all_reduce(high, op=distributed.ReduceOp.MAX, group=group)


def fused(ranges, group):
    """Reduces all layers at once; packing and unpacking are part of the work."""
    layers = len(ranges)
    packed = torch.cat([torch.stack([-low for low, _ in ranges]), torch.stack([high for _, high in ranges])])
    distributed.all_reduce(packed, op=distributed.ReduceOp.MAX, group=group)
    low, high = -packed[:layers], packed[layers:]
    return low, high


def seconds_of_steps(work, ranges, group, steps):
    """Seconds of each step."""
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        work(ranges, group)
        times.append(time.perf_counter() - start)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument(
        "--worlds", required=True, help="numbers of ranks, rising, by commas; of the last one this is part")
    parser.add_argument("--rendezvous", required=True, help="a path where all ranks meet")
    arguments = parser.parse_args()
    worlds = [int(world) for world in arguments.worlds.split(",")]

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{arguments.rendezvous}", rank=arguments.rank,
                                   world_size=worlds[-1])
    groups = {world: distributed.new_group(list(range(world))) for world in worlds}
    ranges = [(torch.tensor(-1.0 - arguments.rank - layer), torch.tensor(1.0 + arguments.rank + layer))
              for layer in range(arguments.layers)]
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        work, world, steps = line.split()
        times = seconds_of_steps({"per_layer": per_layer, "fused": fused}[work], ranges, groups[int(world)], int(steps))
        print(json.dumps(times), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
