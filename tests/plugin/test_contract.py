"""`pcb` keeps to what mergekit expects of every merge method."""

from __future__ import annotations

import pytest
import torch
from mergekit.merge_methods import (
    TensorGroup,
    get,
    merge_state_dicts,
    merge_tensors,
)

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


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("pcb", {}),
        ("pcb", {"scope": "model"}),
        ("task_arithmetic", {"weight": 1.0}),
        ("ties", {"weight": 1.0}),
    ],
)
def test_a_group_of_the_base_alone(method: str, parameters: dict) -> None:
    """It gives the base itself, as mergekit's own methods do."""
    merged = merge_tensors([BASE], method, base_index=0, parameters=parameters)
    assert merged is BASE


@pytest.mark.parametrize("scale", ["auto", 1.0])
def test_tensors_without_names_are_all_of_the_model(scale: str | float) -> None:
    """Under `scope: model`; a caller from Python need not give names."""

    def group(name: str | None, tensors: list[torch.Tensor]) -> TensorGroup:
        return TensorGroup.from_tensors(
            tensors, ids=["base", "a", "b"], base_index=0, name=name
        )

    drawn = torch.Generator().manual_seed(0)
    inputs = []
    for size, step in ((300, 0.01), (5000, 1.0)):
        base = torch.randn(size, generator=drawn)
        moved = [base + step * torch.randn(size, generator=drawn) for _ in range(2)]
        inputs.append([base, *moved])
    parameters = {"scope": "model", "lambda": scale}
    named, unnamed = (
        get("pcb")(list(map(group, names, inputs)), parameters=parameters)
        for names in (("v", "w"), (None, None))
    )
    # The sample behind `auto` is drawn by the names.
    most = 0.1 if scale == "auto" else 0.0
    for (base, *_), one, other in zip(inputs, named, unnamed, strict=True):
        assert (one - other).norm() <= most * (one - base).norm()


def test_many_small_tensors_have_a_sample() -> None:
    """Each is less than one coordinate of it."""
    drawn = torch.Generator().manual_seed(0)
    names = [f"v{i}" for i in range(9_000)]
    models = {
        model: {name: torch.randn(10, generator=drawn) for name in names}
        for model in ("base", "a", "b")
    }
    merged = merge_state_dicts(
        models, "pcb", base="base", parameters={"scope": "model"}
    )
    assert all(tensor.isfinite().all() for tensor in merged.values())


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
