"""A model in memory that becomes one candidate after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.kept_rows import write_merge
from mergekit_pcb.search.contributions import Contributions
from mergekit_pcb.search.sources import Sources


def architecture_of(folder: Path) -> str:
    """The name of a model's class, as its config.json says."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return str((config.get("architectures") or [""])[0])


class MergedModel:
    """The base model, into which the weights of a candidate are written.

    Attributes:
        model: of transformers, or a state dict: tensors by the names of the recipe's.
            Its weights are those of the last candidate.
    """

    def __init__(
        self, model: Any, base: Mapping[str, torch.Tensor], sources: Sources
    ) -> None:
        """Find the places of all merged tensors in the model.

        Raises:
            PCBError: the model has no such tensor, or one of another size.
        """
        self.model, self._base, self._sources = model, base, sources
        state = self._state()
        prefix = getattr(model, "base_model_prefix", "")
        tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
        self._keys: dict[str, str] = {}
        for name, size in sources.sizes.items():
            inner = f"{prefix}.{name}"
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
                self._keys[name] = key
        self._places = self._found()
        self._require_whole()
        # Whose contributions the weights have.
        self._written: Contributions | None = None

    def set(
        self,
        contributions: Contributions,
        scale: float | None,
        weights: Callable[[str], Sequence[float]] | None = None,
        *,
        anew: bool = False,
    ) -> None:
        """Write base + lambda * sum_i w_i c_i into the model.

        Args:
            contributions: those of the candidate's setting.
            scale: lambda; None is the recipe's, which may differ by tensor.
            weights: gives the weights w_i of a tensor by its name, if there is a row
                for each model.
            anew: write all weights, and not only those that may differ from those of
                the candidate before.

        Raises:
            PCBError: an evaluation has replaced the model's weights.
        """
        if self._written is not contributions or anew:
            self.set_to_base()
        self._require_same_places()
        self._written = None
        for name, place in self._places.items():
            arithmetic = contributions.arithmetic(
                name,
                scale,
                weights and weights(name),
                self._sources.dtypes[name],
            )
            kept = contributions.kept[name]
            if place.device.type == "cpu" and place.dtype == torch.float32:
                write_merge(kept, arithmetic, self._base[name], place)
            else:
                values = self._of_base(name).float()
                write_merge(kept, arithmetic, self._base[name], values)
                place.copy_(values)
        self._written = contributions

    def set_to_base(self) -> None:
        """Write the base into the model.

        Raises:
            PCBError: an evaluation has replaced the model's weights.
        """
        self._require_same_places()
        self._written = None
        for name, place in self._places.items():
            place.copy_(self._of_base(name))

    def _state(self) -> Mapping[str, torch.Tensor]:
        if isinstance(self.model, Mapping):
            return self.model
        state: Mapping[str, torch.Tensor] = self.model.state_dict()
        return state

    def _of_base(self, name: str) -> torch.Tensor:
        return self._sources.written(self._base[name], name)

    def _found(self) -> dict[str, torch.Tensor]:
        state = self._state()
        return {name: state[key].view(-1) for name, key in self._keys.items()}

    def _require_whole(self) -> None:
        """Refuse a merge after which some weights of the model would be the base's."""
        if isinstance(self.model, Mapping):
            return
        merged = {place.data_ptr() for place in self._places.values()}
        left = [
            name
            for name, weight in self.model.named_parameters()
            if weight.data_ptr() not in merged and weight.numel()
        ]
        if left:
            raise PCBError(
                f"the recipe merges no {left[0]}, which a {type(self.model).__name__} "
                f"of the base's size has ({len(left)} tensors in all): search takes "
                "recipes that merge whole models"
            )

    def _require_same_places(self) -> None:
        places = self._found()
        if any(
            place.data_ptr() != places[name].data_ptr()
            for name, place in self._places.items()
        ):
            raise PCBError(
                "the evaluation changed the dtype or device of the model, or replaced "
                "its weights: let it work on copy.deepcopy(model)"
            )
