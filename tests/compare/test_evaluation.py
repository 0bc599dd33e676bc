"""Evaluation by a function of the user's: `MODULE:FUNCTION`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mergekit_pcb.compare.evaluation import ALL, TEST, VALIDATION
from mergekit_pcb.compare.function import Function, _score
from mergekit_pcb.errors import PCBError

NAMED = """
def named(model_dir):
    return {NAME: 1.0}
"""

FUNCTIONS = """
def whole(model_dir):
    return {"accuracy": 0.5, "val_loss": 2.0, "oddness": 1.0}

def split(model_dir, split):
    return {"accuracy": {"validation": 0.1, "test": 0.2}[split]}

def nothing(model_dir):
    return None

def words(model_dir):
    return {"accuracy": "high"}

def broken(model_dir):
    return {"accuracy": [1.0, float("nan"), float("inf")]}
"""


@pytest.fixture
def functions(module_of: Callable[[str], str]) -> str:
    return module_of(FUNCTIONS)


def ignore(percent: float) -> None:
    pass


def test_a_function_is_found_and_its_costs_are_known(functions: str) -> None:
    """Losses are recognised by name, others are named on the command line."""
    whole = Function(f"{functions}:whole", ["oddness"])
    scores = whole(Path(), ALL, ignore)
    assert {name: score.higher_is_better for name, score in scores.items()} == {
        "accuracy": True,
        "val_loss": False,
        "oddness": False,
    }
    assert not whole.splits
    split = Function(f"{functions}:split")
    assert split.splits
    assert split(Path(), VALIDATION, ignore)["accuracy"].value == 0.1
    assert split(Path(), ALL, ignore)["accuracy"].value == 0.2
    assert split.identity(VALIDATION) != split.identity(TEST) == split.identity(ALL)
    assert whole.identity(VALIDATION) == whole.identity(TEST)


@pytest.mark.parametrize(
    ("function", "lower", "message"),
    [
        ("nothing", [], "must return a dict of numbers or of items, not None"),
        ("words", [], "gave 'high' for accuracy"),
        ("broken", [], "broken gave NaN or infinity for 2 of 3 items of accuracy"),
        ("whole", ["odness"], "gave no metric `odness`; did you mean `oddness`?"),
    ],
)
def test_what_a_function_returns_is_checked(
    functions: str, function: str, lower: list[str], message: str
) -> None:
    """A function that returns no numbers by name is told so."""
    with pytest.raises(PCBError) as caught:
        Function(f"{functions}:{function}", lower)(Path(), ALL, ignore)
    assert message in caught.value.message


RIGHT = [True, False, True, True]


@pytest.mark.parametrize(
    "items",
    [
        RIGHT,
        tuple(RIGHT),
        [1, 0, 1, 1],
        np.array(RIGHT),
        torch.tensor(RIGHT),
        "scalars",
    ],
)
def test_items_make_a_mean_with_its_error(items: Any) -> None:
    """Lists, arrays and tensors of numbers: mean 3/4, variance 1/4 over 4 items."""
    if isinstance(items, str):
        items = [np.float32(1), torch.tensor(0), 1, np.bool_(1)]
    score = _score("accuracy", items, higher_is_better=True)
    assert score.items == [1.0, 0.0, 1.0, 1.0]
    assert score.value == 0.75
    assert score.error == pytest.approx(0.25)


@pytest.mark.parametrize("as_array", [False, True])
def test_pairs_make_a_ratio_of_sums(*, as_array: bool) -> None:
    """Bits and bytes: 12 / 8, and what each text adds to it in first order."""
    pairs: Any = [(4.0, 2), (2.0, 2), (6.0, 4)]
    score = _score("bits", np.array(pairs) if as_array else pairs, False)
    assert score.value == 1.5
    # Part less 1.5 times weight is 1, -1, 0; the mean weight is 8 / 3.
    assert score.items == pytest.approx([1.5 + 3 / 8, 1.5 - 3 / 8, 1.5])
    assert score.error == pytest.approx(3 / 8 / math.sqrt(3))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "no items for x"),
        ([1.0, (1.0, 2.0)], "numbers and pairs mixed for x"),
        ([(1.0, 2.0, 3.0)], "(1.0, 2.0, 3.0) for x, which is neither"),
        ([(1.0, 0), (2.0, 0)], "weights for x that are negative or add up to 0"),
        (["a"], "'a' for x, which is neither a number nor a list"),
        (math.nan, "nan for x"),
        (None, "None for x, which is neither"),
        ([(1.0, math.nan)], "NaN or infinity for 1 of 1 items of x"),
    ],
)
def test_values_that_are_no_score(value: Any, message: str) -> None:
    """The message names the metric, and says what is wrong with it."""
    with pytest.raises(ValueError, match=r"for|of") as caught:
        _score("x", value, higher_is_better=True)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nocolon", "write `module:function`"),
        ("no_such_module:f", "cannot import no_such_module"),
        ("json:no_such", "json has no function `no_such`"),
        ("./scores.py:f", "write the module's name, such as scores:f"),
    ],
)
def test_a_function_that_is_not_there(where: str, message: str) -> None:
    """A wrong name is one line."""
    with pytest.raises(PCBError, match=message):
        Function(where)


def test_a_module_with_a_mistake(module_of: Callable[[str], str]) -> None:
    """It is the user's own code, so its error is the reason."""
    with pytest.raises(PCBError, match="SyntaxError"):
        Function(f"{module_of('def f(:')}:f")
    with pytest.raises(PCBError, match="SystemExit: 0"):
        Function(f"{module_of('import sys; sys.exit(0)')}:f")
    with pytest.raises(PCBError, match="ZeroDivisionError: division by zero"):
        Function(f"{module_of('1 / 0')}:f")


def test_what_is_called_need_not_be_a_plain_function(
    module_of: Callable[[str], str],
) -> None:
    """Its identity is that of the file that it was written in."""
    text = """
from functools import partial
class Of:
    def __call__(self, folder): return {"a": 1.0}
def f(folder, more): return {"a": more}
o, p = Of(), partial(f, more=2.0)
"""
    module = module_of(text)
    digests = {name: Function(f"{module}:{name}").identity(ALL)[1] for name in "fop"}
    assert set(digests.values()) == {hashlib.sha256(text.encode()).hexdigest()}
    assert Function(f"{module}:p")(Path(), ALL, ignore)["a"].value == 2.0
    assert Function("math:sqrt").identity(ALL), "which has no file"
    assert Function("os.path:join").identity(ALL), "whose file is not there"


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        ("swedish bits_per_byte", False),
        ("bits per byte (swedish)", False),
        ("mails: loss", False),
        ("val-loss", False),
        ("word_perplexity", False),
        ("glossary", True),
        ("terms of error-free texts", False),
        ("winter", True),
        ("accuracy", True),
    ],
)
def test_names_of_losses_are_known(
    name: str, higher: bool, module_of: Callable[[str], str]
) -> None:
    """By whole words, whatever stands between them."""
    module = module_of(NAMED.replace("NAME", repr(name)))
    scores = Function(f"{module}:named")(Path(), ALL, ignore)
    assert scores[name].higher_is_better is higher
