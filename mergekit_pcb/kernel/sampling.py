"""Which coordinates of a domain are looked at first."""

from __future__ import annotations

import torch

# Task values drawn at most.
_MOST = 1 << 20
# Coordinates drawn at least: the projection is then off by a percent or so, measured by
# ``experiments.auto_lambda``.
_LEAST = 1 << 14


def sample_coordinates(size: int, models: int) -> torch.Tensor | None:
    """(m,) coordinates of a domain, drawn uniformly, ascending; None for all.

    The same for a domain of the same size, on every device.
    """
    # Drawing costs as much as the narrower brackets then save.
    worthwhile = int(size ** (2 / 3))
    count = max(min(worthwhile, _MOST // models), _LEAST)
    if count >= size:
        return None
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(size, (count,), generator=generator, device=generator.device)
    # In the order of memory, or of the file that it is still to be read from.
    drawn.numpy().sort()
    return drawn
