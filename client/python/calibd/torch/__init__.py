"""calibd for PyTorch: hooks, observers for torch.ao.quantization, learned scales, and one call for all ranks."""

from calibd.torch.distributed import rank_and_world_size
from calibd.torch.kernels import observe
from calibd.torch.watch import Watcher, rules, watch

__all__ = ["Watcher", "observe", "rank_and_world_size", "rules", "watch"]
