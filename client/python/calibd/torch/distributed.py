"""Sessions that all ranks of torch.distributed share."""

from __future__ import annotations

import os
import socket
from typing import Any, Optional, Tuple, Union

import torch

from calibd.client import Client, connect
from calibd.session import Session


def rank_and_world_size() -> Tuple[int, int]:
    """Of this process: torch.distributed's when it is initialized, else RANK and WORLD_SIZE as torchrun sets them, else
    rank 0 of 1."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_first_rank() -> bool:
    """Whether this process is rank 0, also where there are no ranks."""
    return rank_and_world_size()[0] == 0


def distributed_session(
    server: Union[str, Client],
    name: str,
    *,
    synchronous: bool = False,
    display_name: Optional[str] = None,
    **config: Any,
) -> Session:
    """This rank's part of a session that all ranks share. Every rank calls it alike, in any order, without a barrier.

    server: HOST:PORT, or a calibd.Client.
    synchronous: for steps (Session.step, LearnedScales), of as many ranks as there are. Else ranks contribute on their
        own.
    display_name: for people; None: HOST:RANK.
    config: as Client.create_session takes it, such as rules; whoever comes first makes the session.

    Raises as Client.create_session: AlreadyExistsError when there is a session of this name with another config, as of
    another world size.
    """
    rank, world_size = rank_and_world_size()
    client = connect(server) if isinstance(server, str) else server
    client.create_session(name, world_size=world_size if synchronous else None, **config)
    if display_name is None:
        display_name = f"{socket.gethostname()}:{rank}"
    return client.session(name, rank=rank if synchronous else None, display_name=display_name)
