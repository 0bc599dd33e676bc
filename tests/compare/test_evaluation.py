"""Evaluation by a function of the user's: `FILE.py:FUNCTION`."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergekit_pcb.compare.evaluation import ALL, TEST, VALIDATION, Function
from mergekit_pcb.errors import PCBError

FUNCTIONS = """
def whole(model_dir):
    return {"accuracy": 0.5, "val_loss": 2.0, "oddness": 1.0}

def split(model_dir, split):
    return {"accuracy": {"validation": 0.1, "test": 0.2}[split]}

def nothing(model_dir):
    return None

def words(model_dir):
    return {"accuracy": "high"}
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"functions_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


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
        ("nothing", [], "must return a dict of numbers, not None"),
        ("words", [], "gave 'high' for accuracy"),
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


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nocolon", "write `module:function`"),
        ("no_such_module:f", "cannot import no_such_module"),
        ("json:no_such", "json has no function `no_such`"),
    ],
)
def test_a_function_that_is_not_there(where: str, message: str) -> None:
    """A wrong name is one line."""
    with pytest.raises(PCBError, match=message):
        Function(where)
