"""The method against a float64 restatement that knows none of its tricks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from mergekit.merge_methods import merge_tensors

import mergekit_pcb  # noqa: F401  # registers pcb where the start-up file does not run
from tests.oracle import count_flips, merge, merge_domain, task_vectors

OFFICIAL = Path(__file__).parents[1] / "data" / "official_outputs.npz"
VARIANTS = {
    "root": {"inter": "raw", "clamp": 0.0001},
    "nlp": {"inter": "raw", "clamp": 0.01},
    "vision": {"inter": "normalized", "clamp": 0.01},
    "es": {"inter": "pairwise", "clamp": 0.01},
}
INTER = st.sampled_from(["raw", "normalized", "pairwise"])
CLAMP = st.sampled_from([0.0, 0.0001, 0.01, 0.25, 0.49])
DENSITY = st.sampled_from([1e-9, 0.05, 0.1, 0.5, 0.9, 1.0]) | st.floats(1e-3, 1.0)


def test_the_oracle_agrees_with_the_authors() -> None:
    """The restatement gives the authors' outputs, tensor by tensor and as a whole."""
    outputs = np.load(OFFICIAL)
    cases = json.loads(bytes(outputs["meta"]))
    assert {case["variant"] for case in cases} == set(VARIANTS)
    for number, case in enumerate(cases):
        key = f"c{number:02d}"
        tensors = range(len(case["shapes"]))
        taus = [outputs[f"{key}_tv_t{k}"] for k in tensors]
        density, weight = case["density"], case["weights"]
        options = VARIANTS[case["variant"]]
        repeated = [density] * len(taus), [weight] * len(taus)
        whole = merge_domain(taus, *repeated, **options)
        for k in tensors:
            alone = merge(taus[k], density, weight, **options)
            for merged, scope in ((alone, "tensor"), (whole[k], "model")):
                expected = outputs[f"{key}_{scope}_t{k}"]
                np.testing.assert_allclose(
                    merged.delta,
                    expected,
                    rtol=0,
                    atol=1e-6 * np.abs(expected).max() + merged.error.max(),
                    err_msg=f"{key} {scope} t{k}",
                )


@st.composite
def coarse(draw: st.DrawFn) -> np.ndarray:
    """Task vectors of few levels, on which sums are exact and ties are everywhere."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 40)))
    top = draw(st.integers(1, 8))
    levels = draw(arrays.arrays(np.int8, shape, elements=st.integers(-top, top)))
    tau = levels.astype(np.float32) * 2.0 ** draw(st.integers(-12, -5))
    for i in range(len(tau)):
        kind = draw(
            st.sampled_from(["as it is"] * 3 + ["zero", "constant", "opposite"])
        )
        if kind == "zero":
            tau[i] = 0
        elif kind == "constant":
            tau[i] = tau[i].max(initial=0)
        elif kind == "opposite":
            tau[i] = -tau[i - 1]
    return tau


# Milliseconds each, and most of them are less degenerate than they look.
@settings(max_examples=300)
@given(coarse(), INTER, CLAMP, DENSITY)
def test_ties_zeros_and_constants(
    tau: np.ndarray, inter: str, clamp: float, density: float
) -> None:
    """Where float32 computes exactly, degenerate cases have their defined results."""
    # More than two terms that are not exact add up differently in another order.
    tau = tau if inter == "raw" else tau[:2]
    models = list(torch.from_numpy(tau))
    base = torch.zeros(tau.shape[1])
    parameters = {"density": density, "lambda": 1, "inter": inter, "clamp": clamp}
    out = merge_tensors([base, *models], "pcb", base_index=0, parameters=parameters)
    expected = merge(tau, density, inter=inter, clamp=clamp)
    assert count_flips(out, base, expected) == 0


@st.composite
def fine(draw: st.DrawFn) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A base and models of any dtype, 0-d, empty, transposed, or many."""
    shape = draw(
        st.sampled_from([(), (0,), (1,), (2,), (3,), (0, 4)])
        | st.tuples(st.integers(1, 9), st.integers(1, 9))
    )
    n = draw(st.sampled_from([1, 2, 3, 8, 100]))
    # Nothing so small that a product of two would vanish in float32.
    value = st.just(0.0) | st.builds(
        lambda sign, magnitude: np.float32(sign * magnitude),
        st.sampled_from([-1, 1]),
        st.floats(1e-5, 8),
    )
    tau = draw(arrays.arrays(np.float32, (n, *shape), elements=value, fill=value))
    base = draw(arrays.arrays(np.float32, shape, elements=value, fill=value))
    dtype = draw(
        st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])
    )
    tensors = [torch.from_numpy(np.asarray(base + row)).to(dtype) for row in tau]
    tensors.append(torch.from_numpy(np.asarray(base)).to(dtype))
    if draw(st.booleans()) and len(shape) == 2:
        tensors = [tensor.T for tensor in tensors]
    return tensors.pop(), tensors


@given(fine(), INTER, CLAMP, DENSITY, st.floats(-3, 3, width=16), st.data())
def test_any_input(
    inputs: tuple[torch.Tensor, list[torch.Tensor]],
    inter: str,
    clamp: float,
    density: float,
    scale: float,
    data: st.DataObject,
) -> None:
    """Never NaN; different from the oracle only where rounding decides who competes."""
    base, models = inputs
    weight = [data.draw(st.floats(-2, 2, width=16)) for _ in range(min(len(models), 3))]
    weight += [1.0] * (len(models) - len(weight))
    parameters = {
        "density": density,
        "weight": weight,
        "lambda": scale,
        "inter": inter,
        "clamp": clamp,
    }
    before = [tensor.clone() for tensor in (base, *models)]
    out = merge_tensors([base, *models], "pcb", base_index=0, parameters=parameters)
    assert out.dtype == base.dtype
    assert all(map(torch.equal, (base, *models), before))
    expected = merge(
        task_vectors(base, models), density, weight, inter=inter, clamp=clamp
    )
    count_flips(out, base, expected, scale=scale)
