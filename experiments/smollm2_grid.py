"""What each method may try: for all of them the same number of settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Values = Mapping[str, Sequence[float]]

# A lambda means more to a method that sums than to one that averages, so the ranges
# differ. They come from trials on other extracts of the texts, and are meant to have
# each method's best inside.
SWEPT: Mapping[str, Values] = {
    "linear": {"scale": (1.0, 1.4, 1.8, 2.2, 2.6, 3.0)},
    "task_arithmetic": {"lambda": (0.4, 0.6, 0.8, 1.0, 1.2, 1.4)},
    "ties": {"density": (0.2, 0.5), "lambda": (1.0, 1.4, 1.8)},
    "dare_ties": {"density": (0.2, 0.5), "lambda": (0.4, 0.7, 1.0)},
    "pcb": {"density": (0.1, 0.4), "lambda": (1.0, 1.4, 1.8)},
}
METHODS = (*SWEPT, "pcb:model")


def options() -> list[str]:
    """The same as options of ``mergekit-pcb compare``."""
    words = ["--methods", ",".join(METHODS)]
    # The customary weight of methods that sum, 0.4, is a lambda by another name.
    words += ["--set", "weight=1.0"]
    for method, swept in SWEPT.items():
        for parameter, values in swept.items():
            words += ["--sweep", f"{method}.{parameter}={','.join(map(str, values))}"]
    return words
