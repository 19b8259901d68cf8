"""Small models with everything that hooks meet."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    """A residual block; its addition belongs to no module."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.norm(self.conv(x)) + x)


class Classifier(nn.Module):
    """8x8 images to ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.blocks(self.stem(x)))
        return self.head(self.dropout(torch.flatten(x, 1)))


def classifier() -> nn.Module:
    """A Classifier whose numbers are the same each time, ready to evaluate."""
    torch.manual_seed(3)
    return Classifier().eval()


def images(batches: int, size: int = 4) -> list:
    """Batches of images, the same each time."""
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(size, 1, 8, 8, generator=generator) for _ in range(batches)]
