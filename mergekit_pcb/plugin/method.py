"""The merge method `pcb`: parameters and input contract, as mergekit wants them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Annotated, Any

import torch
from mergekit.merge_methods import (
    BasePolicy,
    BatchOptions,
    GroupMergeMethod,
    InputContract,
    MergeMethodSpec,
    ParameterScope,
    TensorGroup,
)
from mergekit.merge_methods.base import ParameterSpec
from mergekit.merge_methods.dtype import align_dtype
from pydantic import BeforeValidator

from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.formula import INTER_FORMS, Options
from mergekit_pcb.kernel.merge import merge_one_tensor, merge_tensor
from mergekit_pcb.plugin.model_scope import TensorStatistics, take_statistics
from mergekit_pcb.plugin.tensor_groups import naming_culprit, task_vectors

SCOPES = ("tensor", "model")


def _number(name: str, takes: str, fits: Callable[[float], bool]) -> Any:
    """The type of a number in a range, whose errors name the parameter."""

    def check(value: object) -> float:
        try:
            # YAML reads 1e-1 as a string; true and false are numbers to Python.
            number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        if fits(number):
            return number
        hint = ""
        if 1 < number <= 100 and fits(number / 100):
            hint = f"; did you mean {number / 100:g}?"
        raise PCBError(f"{name} must be {takes}, got {value!r}{hint}")

    return Annotated[float, BeforeValidator(check)]


def _choice(name: str, choices: Sequence[str]) -> Any:
    def check(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        near = difflib.get_close_matches(str(value).lower(), choices, 1, 0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise PCBError(f"{name} must be {_listed(choices)}, got {value!r}{hint}")

    return Annotated[str, BeforeValidator(check)]


def _file_name(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise PCBError(f"statistics must be the name of a file, got {value!r}")


def _listed(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]])


_PER_MODEL, _SHARED = ParameterScope.NON_BASE, ParameterScope.SHARED
_FINITE = ("a finite number", math.isfinite)

SPEC = MergeMethodSpec(
    name="pcb",
    pretty_name="PCB-Merging",
    reference_url="https://arxiv.org/abs/2410.02396",
    contract=InputContract(base=BasePolicy.REQUIRED),
    parameters=(
        ParameterSpec(
            "weight",
            _number("weight", *_FINITE),
            _PER_MODEL,
            1.0,
            "scales what the model contributes, after the competition",
        ),
        ParameterSpec(
            "density",
            _number("density", "in (0, 1]", lambda r: 0 < r <= 1),
            _PER_MODEL,
            0.1,
            "fraction of coordinates where the model competes",
        ),
        ParameterSpec(
            "lambda",
            _number("lambda", *_FINITE),
            _SHARED,
            1.0,
            "scales the merged task vector",
        ),
        ParameterSpec(
            "scope",
            _choice("scope", SCOPES),
            _SHARED,
            "tensor",
            "what is ranked together: each tensor by itself, or the whole model",
        ),
        ParameterSpec(
            "inter",
            _choice("inter", INTER_FORMS),
            _SHARED,
            "raw",
            "published form of the balancing between models",
        ),
        ParameterSpec(
            "clamp",
            _number("clamp", "in [0, 0.5)", lambda c: 0 <= c < 0.5),
            _SHARED,
            0.01,
            "fraction of magnitudes clamped at each end",
        ),
        ParameterSpec(
            "statistics",
            Annotated[str | None, BeforeValidator(_file_name)],
            _SHARED,
            None,
            "file of whole-model statistics from an earlier merge of the same models",
        ),
        ParameterSpec("normalize", bool, _SHARED, False, "no effect"),
        ParameterSpec("int8_mask", bool, _SHARED, False, "no effect"),
    ),
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
        """Refuse inputs without a base, or with a model listed twice, by name."""
        where = f" ({group_name})" if group_name else ""
        if base_id is None or base_id not in input_ids:
            raise PCBError(
                "pcb needs base_model: the model that the others were fine-tuned from"
                f"{where}"
            )
        twice = {str(i) for i in input_ids if list(input_ids).count(i) > 1}
        if twice:
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
        # merge_state_dicts comes this way, with every tensor of the model: the one
        # entrance where whole-model statistics can be taken on the spot.
        groups = tuple(groups)
        bound = self._bind_parameters(groups, parameters or {})
        if any(of_tensor["statistics"] for of_tensor in bound):
            raise PCBError("statistics: a file can be used from a recipe only")
        if any(of_tensor["scope"] == "model" for of_tensor in bound):
            if dtype is not None:
                groups = tuple(align_dtype(group, dtype) for group in groups)
            with naming_culprit(groups):
                take_statistics(groups, bound)
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
        **parameters: Any,
    ) -> torch.Tensor:
        """Merge the inputs of one tensor; they are not modified.

        Args:
            group: base and models, aligned in dtype and device.
            model_statistics: the whole model's, which ``scope: model`` needs.
            parameters: those of `SPEC`, validated.

        Raises:
            PCBError: an input holds NaN or infinity, or ``scope: model`` has no
                statistics.
        """
        assert group.base is not None, "the contract requires a base"
        base = group.base.tensor
        if not group.non_base or not base.numel():
            return base.detach().clone()
        weight, density = parameters["weight"], parameters["density"]
        scale, inter = parameters["lambda"], parameters["inter"]
        if parameters["scope"] == "tensor":
            with naming_culprit([group]):
                merged = merge_one_tensor(
                    task_vectors(group),
                    density.values_for(group.non_base),
                    weight.values_for(group.non_base),
                    scale=scale,
                    options=Options(inter, parameters["clamp"]),
                )
        elif model_statistics is None:
            raise PCBError(_NO_STATISTICS)
        else:
            models, of_models = zip(*model_statistics, strict=True)
            merged = merge_tensor(
                task_vectors(group, models),
                of_models,
                [weight.get(model, 1.0) for model in models],
                scale=scale,
                inter=inter,
            )
        return merged.view(base.shape)


_NO_STATISTICS = (
    "scope: model needs statistics of the whole model, and this mergekit did not let "
    "mergekit-pcb take them: run `mergekit-pcb doctor`, or use scope: tensor"
)

PCB = PCBMerge()
