"""What a suite is: a base model, tasks to fine-tune it on, and a score on each."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock
from safetensors.torch import load_file
from tqdm import tqdm

from mergekit_pcb.compare.evaluation import TEST, VALIDATION

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Training:
    """How a fine-tune is made.

    Attributes:
        steps: batches seen.
        batch: items of a batch.
        rate: peak learning rate of AdamW; it decays linearly to zero.
        precision: dtype of autocast; the weights are float32.
    """

    steps: int
    batch: int
    rate: float
    precision: str = "bfloat16"


class Suite(Protocol):
    """A kind of model with its tasks. Scores are accuracy or bits, one an item.

    Attributes:
        name: what the command line calls it.
        tasks: what there is a fine-tune for, the order in which they join a merge.
        held_out: tasks that are scored and never trained on.
        metric: of the scores.
        higher_is_better: whether high scores are good.
        front_end: the mergekit command that merges its models, ``yaml`` for
            Hugging Face folders or ``pytorch`` for bare weights.
        training: how its fine-tunes are made.
    """

    name: str
    tasks: tuple[str, ...]
    held_out: tuple[str, ...]
    metric: str
    higher_is_better: bool
    front_end: str
    training: Training

    def prepare(self) -> Path:
        """Return the folder of the base, fetching and writing it the first time."""

    def reference(self, folder: Path) -> str:
        """How a recipe names the model in a folder."""

    def state(self, folder: Path) -> dict[str, torch.Tensor]:
        """The weights of a folder, base, fine-tune or merge, as `scores` takes them."""

    def fine_tune(self, task: str, seed: int, training: Training, folder: Path) -> None:
        """Train all weights on a task and write them to a folder that does not exist.

        The folder gets what the base's has, ``model.safetensors`` at least.
        """

    def scores(self, state: State, task: str, part: str) -> list[float]:
        """Score weights on the items of ``validation`` or ``test`` of a task.

        Args:
            state: tensors by the names of the base's file; others stay the base's.
            task: one of `tasks` or `held_out`.
            part: which of the items.

        Returns:
            One number an item, whose mean is the score.
        """


@dataclass(frozen=True)
class Place:
    """Where a suite works, and on what.

    Attributes:
        work: folder for packages and models, shared by all suites.
        device: ``cpu`` or ``cuda``.
        merge_device: where mergekit-yaml merges.
    """

    work: Path
    device: str = "cpu"
    merge_device: str = "cpu"

    @property
    def packages(self) -> Path:
        """Where packages are unpacked."""
        return self.work / "packages"

    @property
    def models(self) -> Path:
        """Where base models and fine-tunes are."""
        return self.work / "models"

    @property
    def adapters(self) -> Path:
        """Where models are that adapters have been merged into."""
        return self.models / "adapters"

    @property
    def items(self) -> Path:
        """Where the items of each task are once they have been split."""
        return self.work / "items"


def fine_tuned(
    suite: Suite, place: Place, task: str, seed: int, training: Training | None = None
) -> Path:
    """The folder of a fine-tune, which is made unless it is there."""
    training = training or suite.training
    name = f"{task}-seed{seed}"
    if training != suite.training:
        name += f"-{digest(asdict(training))}"
    folder = place.models / suite.name / f"{name}-{digest(asdict(suite.training))}"
    # Of several processes that want the same fine-tune, one makes it.
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():
            return folder
        with finished_folder(folder) as scratch:
            suite.fine_tune(task, seed, training, scratch)
            record = {"task": task, "seed": seed, **asdict(training)}
            (scratch / "training.json").write_text(json.dumps(record, indent=1))
    return folder


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """What ``make`` returns, from a file of plain tensors, lists and strings.

    The file is written the first time: reading packages takes long, and machines
    without the packages need the items only.
    """
    if file.exists():
        return torch.load(file)
    made = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f"{file.name}.{os.getpid()}.partial")
    torch.save(made, scratch)
    scratch.replace(file)
    return made


def load_state(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a model's folder."""
    return load_file(folder / "model.safetensors")


def digest(what: Any) -> str:
    """A short name for a setting."""
    text = json.dumps(what, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@contextmanager
def finished_folder(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``folder`` only if the block succeeds."""
    scratch = folder.with_name(folder.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    yield scratch
    scratch.replace(folder)


def split(
    count: int, *, validation: int, test: int, seed: int = 0
) -> dict[str, list[int]]:
    """Deal the indices of items out to validation, test and, the rest, training.

    Raises:
        ValueError: there are too few.
    """
    if count <= validation + test:
        raise ValueError(
            f"too few items: {count}, of which {validation} are for validation and "
            f"{test} for the test"
        )
    order = random.Random(seed).sample(range(count), count)
    return {
        VALIDATION: sorted(order[:validation]),
        TEST: sorted(order[validation : validation + test]),
        "train": sorted(order[validation + test :]),
    }


def batches(
    count: int, training: Training, seed: int
) -> Iterator[tuple[float, torch.Tensor]]:
    """Indices of each batch, and the share of the learning rate it is trained with.

    Every item is seen once before one is seen again.
    """
    generator = torch.Generator().manual_seed(seed)
    needed = training.steps * training.batch
    rounds = -(-needed // count)
    order = torch.cat(
        [torch.randperm(count, generator=generator) for _ in range(rounds)]
    )
    warm_up = max(training.steps // 10, 1)
    for step in range(training.steps):
        rate = min((step + 1) / warm_up, 1 - step / training.steps)
        yield rate, order[step * training.batch : (step + 1) * training.batch]


def percent_right(logits: torch.Tensor, labels: Sequence[int]) -> list[float]:
    """100 for each item whose label has the highest of the ``(items, labels)``."""
    right = logits.argmax(dim=1).cpu() == torch.tensor(labels)
    return (100.0 * right).tolist()


def fine_tuning(
    model: torch.nn.Module,
    plan: Iterator[tuple[float, torch.Tensor]],
    loss: Callable[[torch.Tensor], torch.Tensor],
    training: Training,
    what: str,
) -> None:
    """Train a model in place.

    Args:
        model: in float32; what does not require gradients stays as it is.
        plan: from `batches`.
        loss: of the items whose indices it is given.
        training: how.
        what: shown beside the progress.

    Raises:
        ValueError: the loss is not finite.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=training.rate, fused=True)
    dtype = getattr(torch, training.precision)
    device = weights[0].device.type
    with tqdm(plan, desc=what, total=training.steps, mininterval=5) as steps:
        for share, chosen in steps:
            for group in optimizer.param_groups:
                group["lr"] = share * training.rate
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                value = loss(chosen)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            if not math.isfinite(value.item()):
                raise ValueError(f"{what}: the loss is {value.item()}")
            steps.set_postfix(loss=f"{value.item():.3f}", refresh=False)
