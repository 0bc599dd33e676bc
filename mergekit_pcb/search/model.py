"""A model in memory that becomes one candidate after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mergekit_pcb.errors import PCBError
from mergekit_pcb.search.contributions import Contributions, Sources
from mergekit_pcb.search.mapped import MappedVectors

# Numbers that are added at a time: 16 MB.
_BLOCK = 1 << 22


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


def architecture_of(folder: Path) -> str:
    """The name of a model's class, as its config.json says."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return str((config.get("architectures") or [""])[0])


class MergedModel:
    """The base model, into which the weights of a candidate are written.

    Attributes:
        model: of transformers; its weights are those of the last candidate.
    """

    def __init__(self, model: Any, base: MappedVectors, sources: Sources) -> None:
        """Find the places of all merged tensors in the model.

        Raises:
            PCBError: the model has no such tensor, or one of another size.
        """
        self.model, self._base, self._sources = model, base, sources
        state = model.state_dict()
        tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
        self._places: dict[str, torch.Tensor] = {}
        for name, size in sources.sizes.items():
            inner = f"{model.base_model_prefix}.{name}"
            key = name if name in state else inner
            if key not in state or state[key].numel() != size:
                raise PCBError(
                    f"{name} of the recipe has no place in a {type(model).__name__} "
                    "of the base's size: search takes recipes that merge whole models "
                    "with the vocabulary of the base"
                )
            # transformers reads a tied tensor from its source when it loads a merge.
            source_is_merged = tied.get(key) in sources.sizes
            if not source_is_merged:
                self._places[name] = state[key].view(-1)

    def set(
        self,
        contributions: Contributions,
        scale: float | None,
        factors: Sequence[float] = (),
    ) -> None:
        """Write base + lambda * sum_i f_i w_i c_i into the model.

        Args:
            contributions: those of the candidate's setting.
            scale: lambda; None is the recipe's, which may differ by tensor.
            factors: f_i on the weight of each model, if there is a row for each.
        """
        for name, place in self._places.items():
            merged = contributions.merged(name, factors)
            own = contributions.own_scale[name]
            self._write(name, place, merged, own if scale is None else scale)

    def set_to_base(self) -> None:
        """Write the base into the model."""
        for name, place in self._places.items():
            self._write(name, place)

    def _write(
        self,
        name: str,
        place: torch.Tensor,
        merged: torch.Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        base = self._base[name][0]
        for start in range(0, len(base), _BLOCK):
            span = slice(start, start + _BLOCK)
            value = base[span]
            if merged is not None:
                # The operations of the kernel, in its order, for the same bits.
                value = (merged[span] * scale).add_(value)
            place[span].copy_(self._sources.written(value, name))
