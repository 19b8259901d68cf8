"""Sessions that all ranks of torch.distributed share."""

from __future__ import annotations

import dataclasses
import os
import socket
from typing import Any, Optional, Tuple, Union

import torch

from calibd.client import Client, connect
from calibd.config import SessionConfig, Synchronous
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
    config: Optional[SessionConfig] = None,
    *,
    synchronous: Union[bool, Synchronous] = False,
    **options: Any,
) -> Session:
    """This rank's part of a session that all ranks share. Every rank calls it alike, in any order, without a barrier.

    server: HOST:PORT, or a calibd.Client.
    config: what to collect; None: a histogram of every layer. It is made by whoever comes first.
    synchronous: for steps (Session.step, LearnedScales), of as many ranks as there are; a Synchronous says how, but for
        its world_size. Else ranks contribute on their own.
    options: as Client.session takes them. display_name is HOST:RANK, unless it is given.

    Raises as Client.create_session: AlreadyExistsError when there is a session of this name with another config, as of
    another world size.
    """
    rank, world_size = rank_and_world_size()
    config = config or SessionConfig()
    if synchronous:
        how = synchronous if isinstance(synchronous, Synchronous) else Synchronous()
        config = dataclasses.replace(config, synchronous=dataclasses.replace(how, world_size=world_size))
    client = connect(server) if isinstance(server, str) else server
    client.create_session(name, config)
    options.setdefault("display_name", f"{socket.gethostname()}:{rank}")
    return client.session(name, rank=rank if synchronous else None, **options)
