"""Task vectors that have broken other code."""

from __future__ import annotations

import torch


def heavy_tailed(n: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(2, n, size, generator=generator)
    return 1e-3 * normal[0] * normal[1].exp()


ADVERSARIAL = {
    "heavy tails": heavy_tailed(3, 30_000),
    "sorted": heavy_tailed(3, 30_000).sort(dim=1).values,
    "all equal": torch.full((3, 30_000), 0.25),
    "two values": torch.where(heavy_tailed(3, 30_000) > 0, 1e-3, -2e-3),
    "99 % zeros": heavy_tailed(3, 30_000) * (torch.arange(30_000) % 100 == 7),
    "98 % zeros": heavy_tailed(3, 30_000) * (torch.arange(30_000) % 50 == 7),
    "denormal": heavy_tailed(3, 30_000) * 2.0**-130,
    "one untouched": heavy_tailed(3, 30_000) * torch.tensor([[1.0], [0.0], [1.0]]),
    "opposite": heavy_tailed(1, 30_000) * torch.tensor([[1.0], [-1.0]]),
    "one value stands out": torch.cat(
        [torch.full((2, 29_999), 1e-3), torch.ones(2, 1)], dim=1
    ),
}
