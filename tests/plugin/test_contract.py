"""`pcb` keeps to what mergekit expects of every merge method."""

from __future__ import annotations

import pytest
import torch
from mergekit.merge_methods import get, merge_state_dicts, merge_tensors

import mergekit_pcb  # noqa: F401  # registers pcb where the start-up file does not run
from mergekit_pcb.errors import PCBError

BASE = torch.linspace(-1, 1, 60).reshape(6, 10)
MODELS = [BASE + 0.1 * torch.sin(BASE * k) for k in (3, 5)]


@pytest.mark.parametrize("groups", [[BASE], ["a"], [None]])
def test_what_is_no_group_is_a_type_error(groups: list) -> None:
    """As with any method."""
    for method in ("pcb", "ties"):
        with pytest.raises(TypeError):
            get(method)(groups)


@pytest.mark.parametrize(
    "parameters",
    [
        {"density": 0},
        {"weight": "much"},
        {"scope": "modle"},
        {"normalize": "perhaps"},
        {"statistics": 3},
    ],
)
def test_wrong_values_are_value_errors(parameters: dict) -> None:
    """Our errors are click's, for one line on a terminal, and ValueError for Python."""
    with pytest.raises(ValueError, match=next(iter(parameters))) as caught:
        merge_tensors([BASE, *MODELS], "pcb", base_index=0, parameters=parameters)
    assert isinstance(caught.value, PCBError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["pcb", "task_arithmetic", "ties"])
def test_a_group_of_the_base_alone(method: str) -> None:
    """It gives the base itself, as mergekit's own methods do."""
    parameters = {} if method == "pcb" else {"weight": 1.0}
    merged = merge_tensors([BASE], method, base_index=0, parameters=parameters)
    assert merged is BASE


def test_gradients_do_not_flow() -> None:
    """Tensors that require gradients give the same result, detached."""
    expected = merge_tensors([BASE, *MODELS], "pcb", base_index=0)
    tensors = [t.clone().requires_grad_() for t in (BASE, *MODELS)]
    merged = merge_tensors(tensors, "pcb", base_index=0)
    assert not merged.requires_grad
    assert torch.equal(merged, expected)


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_infinities_that_all_inputs_share(scope: str) -> None:
    """A mask of -inf is kept, and what is beside it is merged as without it."""
    masks = [torch.where(BASE > 0, t, -torch.inf) for t in (BASE, *MODELS)]
    zeros = [torch.where(BASE > 0, t, 0.0) for t in (BASE, *MODELS)]

    def merged(tensors: list[torch.Tensor]) -> torch.Tensor:
        models = {
            name: {"mask": tensor, "w": tensor.abs().clamp(max=1)}
            for name, tensor in zip(("base", "a", "b"), tensors, strict=True)
        }
        parameters = {"scope": scope, "density": 0.3}
        found = merge_state_dicts(models, "pcb", base="base", parameters=parameters)
        return found["mask"]

    assert torch.equal(merged(masks), torch.where(BASE > 0, merged(zeros), -torch.inf))


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_infinities_of_one_input_are_damage(scope: str) -> None:
    """An infinity that not all inputs share is an error that names its owner."""
    damaged = MODELS[1].clone()
    damaged[0, 3] = torch.inf
    models = {"base": {"w": BASE}, "a": {"w": MODELS[0]}, "b": {"w": damaged}}
    with pytest.raises(PCBError, match="b holds NaN or infinity in w"):
        merge_state_dicts(models, "pcb", base="base", parameters={"scope": scope})


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize(
    ("dtype", "factor", "fix"),
    [
        (torch.float16, 1e6, "write `dtype: bfloat16`"),
        (torch.float32, 3e38, "lower `lambda` or `weight`"),
        (torch.bfloat16, 3e38, "lower `lambda` or `weight`"),
    ],
)
def test_a_result_that_overflows(
    dtype: torch.dtype, factor: float, fix: str, scope: str
) -> None:
    """It is an error that names the tensor, the dtype and what to change."""
    models = {"base": {"w": BASE.to(dtype)}}
    models |= {str(i): {"w": (30 * m).to(dtype)} for i, m in enumerate(MODELS)}
    parameters = {"scope": scope, "lambda": factor}
    with pytest.raises(PCBError, match="w overflows") as caught:
        merge_state_dicts(models, "pcb", base="base", parameters=parameters)
    assert fix in caught.value.message


def test_a_result_that_overflows_the_output_only() -> None:
    """Merged in float32, and too large for a float16 output."""
    models = [BASE, *[1e5 * m for m in MODELS]]
    assert merge_tensors(models, "pcb", base_index=0).isfinite().all()
    with pytest.raises(PCBError, match="overflows float16 in the merge"):
        merge_tensors(models, "pcb", base_index=0, out_dtype=torch.float16)
