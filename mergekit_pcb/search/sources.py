"""The planned recipe: where base, task vectors and their statistics come from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mergekit.common import dtype_from_name
from mergekit.merge_methods import TensorGroup
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions

from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.model_scope import DomainStatistics
from mergekit_pcb.plugin.parameters import AUTO
from mergekit_pcb.plugin.plan_tasks import parameters_of
from mergekit_pcb.plugin.run_tasks import run_work
from mergekit_pcb.plugin.setting_statistics import (
    AllParameters,
    tensor_statistics,
    whole_model_statistics,
)
from mergekit_pcb.plugin.tensor_groups import name_of
from mergekit_pcb.search.mapped import GrowingFile
from mergekit_pcb.search.space import RECIPE, TASK_ARITHMETIC, Setting


@dataclass(frozen=True)
class Statistics:
    """What must be known of the task vectors before they are merged by pcb.

    Attributes:
        whole: by setting, of the tensors that are ranked together, if there are any.
        of_tensors: by name, of tensors that some setting ranks alone.
    """

    whole: Mapping[Setting, DomainStatistics | None]
    of_tensors: Mapping[str, DomainStatistics]

    def of(self, name: str, scope: str, setting: Setting) -> DomainStatistics:
        """Those of a tensor's domain under a setting."""
        if scope == "tensor":
            return self.of_tensors[name]
        found = self.whole[setting]
        assert found is not None, "asked for this very tensor"
        return found


@dataclass
class Sources:
    """The planned recipe, whose models are read for each setting anew.

    Attributes:
        merges: the merge task of each tensor.
        models: the models beside the base, in order.
        options: how to read and compute.
        out_dtype: of the recipe, if it names one.
        sizes: by name the coordinates of the tensors that are merged; known once
            the `base` has been read.
        dtypes: of the merge of each of them, and of what it writes.
    """

    merges: Sequence[ExecuteMergeMethodTask]
    models: Sequence[Hashable]
    options: MergeOptions
    out_dtype: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, tuple[torch.dtype, torch.dtype]] = field(default_factory=dict)
    _statistics: Statistics | None = None

    @property
    def names(self) -> list[str]:
        """Of all tensors that are planned."""
        return [merge.output_weight.name for merge in self.merges]

    def written(self, value: torch.Tensor, name: str) -> torch.Tensor:
        """The numbers that a merge writes for these."""
        of_merge, of_file = self.dtypes[name]
        return value.to(of_merge).to(of_file)

    def base(self, file: Path) -> Mapping[str, torch.Tensor]:
        """Read the base's tensors in the dtype of the merge.

        Args:
            file: is made; for the numbers.

        Returns:
            By name the flat tensor, in a file mapped into memory. float64, in which
            no model in memory computes, becomes float32.

        Raises:
            PCBError: the recipe merges nothing.
        """
        weights = {m.output_weight.name: m.output_weight for m in self.merges}

        def flat(group: TensorGroup) -> torch.Tensor:
            assert group.base is not None, "the task has seen to it"
            return group.base.tensor.detach().reshape(-1)

        numbers = GrowingFile(file)
        places: dict[str, tuple[slice, torch.dtype]] = {}
        for name, tensor in run_work(
            self.merges, flat, self.options, "reading the base"
        ):
            named = weights[name].force_dtype or self.out_dtype
            self.sizes[name] = len(tensor)
            self.dtypes[name] = (tensor.dtype, dtype_from_name(named) or tensor.dtype)
            kept = tensor.float() if tensor.dtype == torch.float64 else tensor
            array = kept.cpu().contiguous().view(torch.uint8).numpy()
            start = numbers.append(array)
            places[name] = slice(start, start + array.nbytes), kept.dtype
        if not self.sizes:
            raise PCBError("the recipe merges no tensor that its base model has")
        memory = torch.from_numpy(numbers.mapped())
        return {name: memory[at].view(dtype) for name, (at, dtype) in places.items()}

    def parameters(self, setting: Setting) -> AllParameters:
        """The parameters of every tensor under a setting."""
        parameters = [parameters_of(merge) for merge in self.merges]
        for each in parameters:
            if setting.method != RECIPE:
                each["lambda"] = AUTO
            if setting.scope is not None:
                each["scope"] = setting.scope
            if setting.density is not None:
                each["density"] = dict.fromkeys(each["density"], setting.density)
        return parameters

    def statistics(self, setting: Setting, others: Sequence[Setting]) -> Statistics:
        """Statistics under a setting of pcb, and those that will be asked for later.

        Args:
            setting: what is needed.
            others: whose statistics the same passes over the models give.
        """
        if self._statistics is None or setting not in self._statistics.whole:
            wanted = dict.fromkeys([setting, *others])
            self._statistics = self._found([s for s in wanted if is_pcb(s)])
        return self._statistics

    def _found(self, settings: Sequence[Setting]) -> Statistics:
        parameters = [self.parameters(setting) for setting in settings]
        whole = whole_model_statistics(self.merges, parameters, self.options)
        alone: dict[str, list[dict[str, Any]]] = {}
        merges = []
        for i, merge in enumerate(self.merges):
            own = [each[i] for each in parameters if each[i]["scope"] == "tensor"]
            if own:
                merges.append(merge)
                alone[merge.output_weight.name] = own

        def work(group: TensorGroup) -> DomainStatistics:
            present = [entry.id for entry in group.non_base]
            return tensor_statistics(group, present, alone[name_of(group)])[0]

        label = "statistics of tensors"
        found = dict(run_work(merges, work, self.options, label))
        return Statistics(dict(zip(settings, whole, strict=True)), found)


def is_pcb(setting: Setting) -> bool:
    """Whether models compete; the recipe that a search begins with is for pcb."""
    return setting.method != TASK_ARITHMETIC
