"""calibd for PyTorch: hooks, observers for torch.ao.quantization, learned scales, and one call for all ranks."""

from calibd.torch.attach import Attachment, attach
from calibd.torch.distributed import distributed_session, rank_and_world_size
from calibd.torch.kernels import observe
from calibd.torch.lsq import LearnableFakeQuantize, LearnedScales
from calibd.torch.observer import FleetObserver, qconfig
from calibd.torch.watch import Watcher, rules, watch

__all__ = [
    "Attachment",
    "FleetObserver",
    "LearnableFakeQuantize",
    "LearnedScales",
    "Watcher",
    "attach",
    "distributed_session",
    "observe",
    "qconfig",
    "rank_and_world_size",
    "rules",
    "watch",
]
