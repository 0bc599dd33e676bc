"""2^x and tanh: close to the truth, and the same bits wherever they are computed."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch

from mergekit_pcb.kernel import exp2_tanh, numba_scores
from mergekit_pcb.kernel.exp2_tanh import exp2_, tanh_


@numba.njit
def compiled_exp2(x, out):
    for j in range(x.size):
        out[j] = numba_scores._exp2(x[j])


@numba.njit
def compiled_tanh(x, out):
    for j in range(x.size):
        out[j] = (
            numba_scores._tanh(x[j]) if abs(x[j]) >= numba_scores._DIFFERS else x[j]
        )


def exponents() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    fine = torch.rand(300_000, generator=generator) * 253 - 126
    tiny = torch.tensor([0.0, -0.0, 2.0**-149, -(2.0**-30), 0.5, -0.5, -126.0, 127.0])
    return torch.cat([fine, fine / 50, torch.arange(-126.0, 128.0), tiny])


def arguments() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    every_scale = 2.0 ** (torch.rand(300_000, generator=generator) * 280 - 149)
    near_the_seams = torch.cat(
        [
            torch.from_numpy(float(seam) + np.arange(-500, 500) * 2.0**-24)
            for seam in (exp2_tanh.TANH_DIFFERS, exp2_tanh.TANH_IS_STEEP, 10.0)
        ]
    )
    edges = torch.tensor([0.0, torch.inf, torch.finfo(torch.float32).max])
    positive = torch.cat([every_scale, near_the_seams.float(), edges])
    return torch.cat([positive, -positive])


def units_off(found: torch.Tensor, truth: np.ndarray) -> float:
    """The largest error, in units in the last place of a float32."""
    unit = np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)
    return float((np.abs(found.double().numpy() - truth) / unit).max())


@pytest.mark.filterwarnings("error")
def test_powers_of_two_are_close() -> None:
    """As close as float32 allows, give or take one."""
    x = exponents()
    assert units_off(exp2_(x.clone()), np.exp2(x.double().numpy())) < 1.2
    assert exp2_(torch.arange(-126.0, 128.0)).tolist() == [
        2.0**k for k in range(-126, 128)
    ]


@pytest.mark.filterwarnings("error")
def test_tanh_is_close() -> None:
    """At every scale, and where one formula takes over from another."""
    x = arguments()
    found = tanh_(x.clone())
    assert units_off(found, np.tanh(x.double().numpy())) < 1.7
    assert torch.equal(found.signbit(), x.signbit())


def test_tanh_of_a_small_value_is_itself() -> None:
    """In truth, too."""
    bound = int(exp2_tanh.TANH_DIFFERS.view(np.uint32))
    small = torch.arange(0, bound, 12_345, dtype=torch.int32).view(torch.float32)
    assert torch.equal(small.double().tanh().float(), small)
    assert torch.equal(tanh_(small.clone()), small)


@pytest.mark.parametrize(
    ("function", "compiled", "values"),
    [(exp2_, compiled_exp2, exponents()), (tanh_, compiled_tanh, arguments())],
    ids=["exp2", "tanh"],
)
def test_bits_depend_on_nothing_but_the_value(
    function, compiled, values: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one piece, in small ones, backwards, and in a compiled loop."""
    at_once = function(values.clone())
    monkeypatch.setattr(exp2_tanh, "_AT_ONCE", 1000)
    assert same_bits(function(values.clone()), at_once)
    assert same_bits(function(values.flip(0)).flip(0), at_once)
    out = torch.empty_like(values)
    compiled(values.numpy(), out.numpy())
    assert same_bits(out, at_once)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


def test_double_precision_is_numpy_s() -> None:
    """float64 keeps its digits."""
    x = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    np.testing.assert_allclose(exp2_(x.clone()), np.exp2(x.numpy()), rtol=1e-15)
    np.testing.assert_allclose(tanh_(x.clone()), np.tanh(x.numpy()), rtol=1e-15)


def test_what_is_not_contiguous_is_refused() -> None:
    """Rather than left as it was."""
    with pytest.raises(RuntimeError, match="view"):
        exp2_(torch.ones(4, 4).T[:2])
