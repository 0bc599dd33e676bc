"""Scores by a function of the user's: ``module:function``."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from mergekit_pcb.compare.evaluation import (
    TEST,
    VALIDATION,
    Score,
    Scores,
    per_item,
    standard_error,
)
from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.progress import Progress
from mergekit_pcb.suggestions import did_you_mean

# As a whole word of the name, whatever stands between words.
_LOWER_IS_BETTER = re.compile(
    r"(?<![^\W_])(perplexity|ppl|loss|nll|bits[\W_]per[\W_]byte|bpb|error|wer|cer|ter"
    r"|brier|mse|rmse|mae)(?![^\W_])",
    re.IGNORECASE,
)


@dataclass
class Function:
    """Scores by a function of the user's, ``module:function``.

    The function takes the folder of a model, or, if its parameter is named ``model``,
    the model itself: of transformers, in eval mode. It returns, by the name of a
    metric, one of these:

    * a number,
    * one number for each item, whose mean is the score,
    * a pair (part, weight) for each item; the score is the sum of the parts over the
      sum of the weights, such as bits over bytes.

    Of items the standard error is known, and the differences of models are paired: the
    items have the same order for every model. If the function takes ``split`` as well,
    that is ``"validation"`` to choose settings and else ``"test"``.
    """

    how_chosen = 'split="validation" chose, split="test" is shown'
    can_rank = True
    leaves_weights = False

    where: str
    lower_is_better: Collection[str] = ()
    device: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Import the function; modules are looked for in the current folder, too.

        Raises:
            PCBError: there is no such function.
        """
        self._function = _imported(self.where)
        self.what = f"Evaluated by {self.where}"
        parameters = inspect.signature(self._function).parameters
        self.splits = "split" in parameters
        self.takes_model = "model" in parameters

    def identity(self, part: str) -> Any:
        """The function's name, and the text of the file it is in."""
        source = _source_of(self._function)
        digest = hashlib.sha256(source).hexdigest()
        lower = sorted(self.lower_is_better)
        return [self.where, digest, lower, self._options(part)]

    def _options(self, part: str) -> dict[str, str]:
        if not self.splits:
            return {}
        return {"split": VALIDATION if part == VALIDATION else TEST}

    def __call__(self, model: Path, part: str, progress: Progress) -> Scores:
        """Call the function for the model in a folder."""
        if self.takes_model:
            return self.in_memory(self._loaded(model), part)
        return self._scores(self._function(str(model), **self._options(part)))

    def in_memory(self, model: Any, part: str) -> Scores:
        """Call the function, which takes a model of transformers."""
        return self._scores(self._function(model=model, **self._options(part)))

    def _loaded(self, folder: Path) -> Any:
        # It takes seconds to import, and most functions load models themselves.
        import torch

        from mergekit_pcb.compare.loading import load_model

        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return load_model(folder, device, trust_remote_code=self.trust_remote_code)

    def _scores(self, returned: Any) -> Scores:
        if not isinstance(returned, Mapping) or not returned:
            raise PCBError(
                f"{self.where} must return a dict of numbers or of items, not "
                f"{returned!r:.60}"
            )
        scores = {}
        for name, value in returned.items():
            lower = name in self.lower_is_better or _LOWER_IS_BETTER.search(str(name))
            try:
                scores[str(name)] = _score(str(name), value, not lower)
            except ValueError as error:
                raise PCBError(f"{self.where} gave {error}") from error
        for name in sorted(set(self.lower_is_better) - scores.keys()):
            hint = did_you_mean(name, scores) or f"it gave {', '.join(scores)}"
            raise PCBError(f"{self.where} gave no metric `{name}`; {hint}")
        return scores


def _score(name: str, value: Any, higher_is_better: bool) -> Score:
    """The score that a value stands for.

    Raises:
        ValueError: it stands for none; the message goes on after "gave".
    """
    # Arrays and tensors become numbers and lists.
    value = value.tolist() if hasattr(value, "tolist") else value
    items: list[float] | None = None
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        raw = [_item(name, item) for item in value]
        bad = sum(not all(map(math.isfinite, item)) for item in raw)
        if bad:
            raise ValueError(f"NaN or infinity for {bad} of {len(raw)} items of {name}")
        if len({len(item) for item in raw}) != 1:
            what = "numbers and pairs mixed" if raw else "no items"
            raise ValueError(f"{what} for {name}")
        if len(raw[0]) == 1:
            items = [item[0] for item in raw]
            number = fmean(items)
        else:
            weights = [weight for _, weight in raw]
            if min(weights) < 0 or not sum(weights):
                raise ValueError(
                    f"weights for {name} that are negative or add up to 0: the second "
                    "of each pair is a weight, such as a count"
                )
            number = sum(part for part, _ in raw) / sum(weights)
            items = per_item(raw, number)
    else:
        (number,) = _item(name, value)
        if not math.isfinite(number):
            raise ValueError(f"{number} for {name}")
    error = standard_error(items) if items else None
    return Score(number, name, higher_is_better, error, items)


def _item(name: str, value: Any) -> tuple[float, ...]:
    """One number, or a pair of numbers."""
    value = value.tolist() if hasattr(value, "tolist") else value
    try:
        if isinstance(value, (tuple, list)):
            part, weight = map(float, value)
            return part, weight
        return (float(value),)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{value!r:.40} for {name}, which is neither a number nor a list of "
            "numbers or of pairs (part, weight)"
        ) from error


def _source_of(function: Any) -> bytes:
    """The text of the file that a function, or an object that is called, is from."""
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    if not inspect.isroutine(function):
        function = type(function)
    try:
        file = inspect.getsourcefile(function)
        return Path(file).read_bytes() if file else b""
    except (TypeError, OSError):  # built in, or not from a file
        return b""


def _imported(where: str) -> Callable[..., Any]:
    module, _, name = where.partition(":")
    if not (module and name):
        raise PCBError(f"write `module:function`, not `{where}`")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function: Any = getattr(importlib.import_module(module), name, None)
    except (Exception, SystemExit) as error:  # of the user's own code
        name_it = ""
        if module.endswith(".py") or "/" in module:
            name_it = f"; write the module's name, such as {Path(module).stem}:{name}"
        text = f"{type(error).__name__}: {error}"
        raise PCBError(f"cannot import {module}: {text}{name_it}") from error
    if not callable(function):
        raise PCBError(f"{module} has no function `{name}`")
    found: Callable[..., Any] = function
    return found
