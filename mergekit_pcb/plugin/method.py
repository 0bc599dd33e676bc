"""The merge method `pcb`, as mergekit calls it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from mergekit.merge_methods import (
    BasePolicy,
    BatchOptions,
    GroupMergeMethod,
    InputContract,
    MergeMethodSpec,
    TensorGroup,
)
from mergekit.merge_methods.dtype import align_dtype

from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.domain import Options
from mergekit_pcb.kernel.errors import NotFiniteError
from mergekit_pcb.kernel.merge import merge_one_tensor, merge_tensor
from mergekit_pcb.kernel.projection import auto_lambda
from mergekit_pcb.plugin.digests import require_digests
from mergekit_pcb.plugin.model_scope import TensorStatistics, add_statistics
from mergekit_pcb.plugin.parameters import AUTO, DEFAULT_WEIGHT, PARAMETERS
from mergekit_pcb.plugin.tensor_groups import (
    naming_bad_input,
    on_finite_inputs,
    overflow,
    task_vectors,
    without_equal_infinities,
)

if TYPE_CHECKING:
    from mergekit_pcb.plugin.lambda_record import LambdaRecord

SPEC = MergeMethodSpec(
    name="pcb",
    pretty_name="PCB-Merging",
    reference_url="https://arxiv.org/abs/2410.02396",
    contract=InputContract(base=BasePolicy.REQUIRED),
    parameters=PARAMETERS,
)


class PCBMerge(GroupMergeMethod):
    """Parameter Competition Balancing (Du et al., NeurIPS 2024)."""

    spec = SPEC

    def validate_inputs(
        self,
        input_ids: Sequence[Hashable],
        base_id: Hashable | None = None,
        *,
        group_name: str | None = None,
    ) -> None:
        """Refuse inputs without a base, or with a model listed twice.

        Raises:
            PCBError: which of the two it is, with the name of the group and the model.
        """
        where = f" ({group_name})" if group_name else ""
        if base_id is not None and base_id not in input_ids and input_ids:
            raise PCBError(
                f"the base model {base_id} has no tensor {group_name or 'here'}, but "
                f"{', '.join(map(str, input_ids))} has: pcb needs it in the base"
            )
        if base_id is None or base_id not in input_ids:
            raise PCBError(
                "pcb needs base_model: the model that the others were fine-tuned from"
                f"{where}"
            )
        if len(set(input_ids)) < len(input_ids):
            twice = {str(i) for i in input_ids if list(input_ids).count(i) > 1}
            raise PCBError(f"{', '.join(sorted(twice))} is listed twice{where}")
        super().validate_inputs(input_ids, base_id, group_name=group_name)

    def __call__(
        self,
        groups: Sequence[TensorGroup],
        /,
        *,
        parameters: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        out_dtype: torch.dtype | None = None,
        batch_options: BatchOptions | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Merge the tensors of a whole model, or some; see the base class."""
        # merge_state_dicts calls this with every tensor of the model in memory, so
        # whole-model statistics can be computed here. From recipes, mergekit calls
        # merge_group with one tensor at a time.
        groups = tuple(groups)
        if not all(isinstance(group, TensorGroup) for group in groups):
            raise TypeError("pcb merges a sequence of TensorGroup values")
        bound = self._bind_parameters(groups, parameters or {})
        if any(of_tensor["statistics"] for of_tensor in bound):
            raise PCBError("statistics: a file can be used from a recipe only")
        if any(of_tensor["scope"] == "model" for of_tensor in bound):
            if dtype is not None:
                groups = tuple(align_dtype(group, dtype) for group in groups)
            try:
                add_statistics(groups, bound)
            except NotFiniteError:
                finite = [without_equal_infinities(group)[0] for group in groups]
                with naming_bad_input(finite):
                    add_statistics(finite, bound)
        return self._execute_resolved(
            groups,
            bound,
            dtype=dtype,
            out_dtype=out_dtype,
            batch_options=batch_options,
        )

    def merge_group(
        self,
        group: TensorGroup,
        /,
        *,
        model_statistics: TensorStatistics | None = None,
        input_digests: Sequence[bytes] | None = None,
        lambda_record: LambdaRecord | None = None,
        **parameters: Any,
    ) -> torch.Tensor:
        """Merge the inputs of one tensor; they are not modified.

        Args:
            group: base and models, aligned in dtype and device. Gradients do not flow
                through the merge.
            model_statistics: of the whole model; needed by ``scope: model``.
            input_digests: of the models that the statistics were computed of.
            lambda_record: takes note of what ``lambda: auto`` becomes.
            parameters: those of `SPEC`, validated.

        Raises:
            PCBError: an input or the result holds NaN or infinity, the inputs are not
                those of the statistics, or ``scope: model`` has no statistics.
        """
        assert group.base is not None, "the contract requires a base"
        base, tuned = group.base.tensor, group.non_base
        if not tuned:
            return base
        if not base.numel():
            return base.detach().clone()
        weight = parameters["weight"]
        scale, inter = parameters["lambda"], parameters["inter"]

        def automatic(projected: Sequence[float]) -> float:
            chosen = auto_lambda(projected, weight.values_for(tuned))
            if lambda_record is not None:
                lambda_record.add(chosen)
            return chosen

        def merge_by_tensor(group: TensorGroup) -> torch.Tensor:
            return merge_one_tensor(
                task_vectors(group),
                parameters["density"].values_for(tuned),
                weight.values_for(tuned),
                scale=automatic if scale == AUTO else scale,
                options=Options(inter, parameters["clamp"]),
            )

        def merge_by_model(group: TensorGroup) -> torch.Tensor:
            return merge_tensor(
                task_vectors(group, models),
                of_models,
                [weight.get(model, DEFAULT_WEIGHT) for model in models],
                scale=scale,
                inter=inter,
            )

        def require_unchanged(group: TensorGroup) -> None:
            require_digests(group, models, input_digests or ())

        merge = merge_by_tensor
        if parameters["scope"] == "model":
            if model_statistics is None:
                raise PCBError(_NO_STATISTICS)
            models, of_models = zip(*model_statistics, strict=True)
            merge = merge_by_model
            if input_digests is not None:
                # Apart from the merge, so that it sees what the first pass saw: a
                # sample may miss an infinity that the merge meets.
                on_finite_inputs(group, require_unchanged)
        merged, infinite = on_finite_inputs(group, merge)
        merged = merged.view(base.shape)
        return merged if infinite is None else torch.where(infinite, base, merged)

    def _execute(
        self,
        groups: Sequence[TensorGroup],
        parameters: list[dict[str, Any]],
        options: BatchOptions,
        *,
        input_dtypes: Sequence[torch.dtype | None],
        out_dtype: torch.dtype | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Merge, and refuse a result that only the output's dtype makes infinite."""
        results = super()._execute(
            groups, parameters, options, input_dtypes=input_dtypes, out_dtype=out_dtype
        )
        for group, dtype, result in zip(groups, input_dtypes, results, strict=True):
            if out_dtype in (None, dtype) or result.isfinite().all():
                continue
            if all(tensor.isfinite().all() for tensor in group.tensors):
                raise overflow(group, result.dtype)
        return results


_NO_STATISTICS = (
    "scope: model needs statistics of the whole model, and this mergekit did not let "
    "mergekit-pcb take them: run `mergekit-pcb doctor`, or use scope: tensor"
)

PCB = PCBMerge()
