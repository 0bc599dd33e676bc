"""Models loaded for evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mergekit_pcb.errors import PCBError


def load_model(folder: Path, device: str, *, trust_remote_code: bool = False) -> Any:
    """Load a model for evaluation.

    On a CPU it computes in float32, whatever its weights are stored in: bfloat16 is
    slower there. On other devices it computes in the dtype of the weights.

    Raises:
        PCBError: transformers has no class for it.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(
        folder, trust_remote_code=trust_remote_code
    )
    names = config.architectures or ()
    cls: Any = getattr(transformers, names[0], None) if names else None
    options: dict[str, Any] = {}
    if cls is None and trust_remote_code:
        cls, options = transformers.AutoModelForCausalLM, {"trust_remote_code": True}
    if cls is None:
        found = f"the architecture {names[0]}" if names else "no architecture"
        raise PCBError(
            f"{folder / 'config.json'} names {found}, which transformers cannot load"
        )
    dtype = torch.float32 if device == "cpu" else "auto"
    model = cls.from_pretrained(folder, dtype=dtype, **options)
    return model.eval().requires_grad_(False).to(device)
