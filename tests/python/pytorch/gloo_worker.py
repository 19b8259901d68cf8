"""One rank of torch.distributed over Gloo: watches a model, then teaches scales.

usage: gloo_worker.py SERVER RENDEZVOUS RANK WORLD_SIZE      prints "done"
"""

from __future__ import annotations

import sys

import calibd.torch
import torch
from small_models import classifier, images
from torch import nn

BATCHES = 4


class Scaled(nn.Module):
    """A layer with a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.linear = nn.Linear(64, 3)
        self.scaled = calibd.torch.LearnableFakeQuantize()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scaled(self.linear(x.flatten(1)))


def main() -> None:
    """A rank has every WORLD_SIZE-th batch."""
    address, rendezvous, rank, world_size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    if world_size > 1:
        torch.distributed.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=world_size)
    model, scaled = classifier(), Scaled()
    if world_size > 1:
        model, scaled = nn.parallel.DistributedDataParallel(model), nn.parallel.DistributedDataParallel(scaled)
    mine = images(BATCHES)[rank::world_size]

    rules = calibd.torch.rules(model)
    with calibd.torch.distributed_session(address, f"watched-{world_size}", rules=rules) as session:
        with calibd.torch.watch(model, session, progress=False):
            for batch in mine:
                model(batch)
        session.flush()

    scales = calibd.torch.LearnedScales(scaled)
    name, rules = f"learned-{world_size}", scales.rules()
    with calibd.torch.distributed_session(address, name, synchronous=True, rules=rules) as session:
        scales.session = session
        for batch in mine:
            scaled(batch).square().mean().backward()
            result = scales.step(timeout=60)
            assert (result.ranks, result.world_size) == (world_size, world_size)
        if world_size > 1:
            values = [torch.zeros(1) for _ in range(world_size)]
            inner = scaled.module.scaled
            torch.distributed.all_gather(values, inner.scale)
            assert inner.has_initial_values() and all(torch.equal(value, values[0]) for value in values)
    print("done", flush=True)


if __name__ == "__main__":
    main()
