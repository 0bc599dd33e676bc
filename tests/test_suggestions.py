"""Which word was probably meant by another one."""

from __future__ import annotations

import pytest

from mergekit_pcb.suggestions import closest


@pytest.mark.parametrize(
    ("word", "options", "meant"),
    [
        ("densty", ["weight", "density"], ["density"]),
        ("Merge-Method", ["merge_method", "models"], ["merge_method"]),
        ("base", ["base_model", "models"], ["base_model"]),
        ("dare", ["ties", "dare_ties", "dare_linear"], ["dare_ties", "dare_linear"]),
        ("pcb_merging", ["pcb", "ties"], ["pcb"]),
        ("modles", ["models", "modules", "slices"], ["modules", "models"]),
        ("norm", ["raw", "normalized", "pairwise"], ["normalized"]),
        ("whole-model", ["tensor", "model"], ["model"]),
        ("lamda", ["weight", "lambda"], ["lambda"]),
        ("pbc", ["pcb", "ties"], ["pcb"]),
        ("chek", ["check", "merge"], ["check"]),
        ("zzz", ["models"], []),
        ("m", ["models"], []),
        ("", ["models"], []),
    ],
)
def test_closest(word: str, options: list[str], meant: list[str]) -> None:
    """The word that was meant is found, or the two or three it can have been."""
    assert closest(word, options) == meant
