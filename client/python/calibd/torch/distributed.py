"""Sessions that all ranks of torch.distributed share."""

from __future__ import annotations

import os
from typing import Tuple

import torch


def rank_and_world_size() -> Tuple[int, int]:
    """Of this process: torch.distributed's when it is initialized, else RANK and WORLD_SIZE as torchrun sets them, else
    rank 0 of 1."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_first_rank() -> bool:
    """Whether this process is rank 0, also where there are no ranks."""
    return rank_and_world_size()[0] == 0
