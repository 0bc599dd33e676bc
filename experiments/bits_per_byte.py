r"""The language suite's scores as a function for `mergekit-pcb compare` and `search`.

    SUITES=FOLDER mergekit-pcb compare recipe.yml --out comparison \
        --recipe found/best.yml --evaluate experiments.bits_per_byte:language

FOLDER is the work folder of `experiments.fine_tune`, where packages and items are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from experiments.cases import opened
from experiments.suites.suite import Place

TASKS = ("swedish", "dialogue", "definitions")


def language(model: Any, split: str) -> dict[str, list[float]]:
    """Bits per byte of three tasks, an item a document.

    Args:
        model: of transformers.
        split: ``validation`` or ``test``.
    """
    suite = opened("language", Place(Path(os.environ["SUITES"])))
    state = model.state_dict()
    return {f"{task} bits_per_byte": suite.scores(state, task, split) for task in TASKS}
