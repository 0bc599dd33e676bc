"""Candidates of other methods: each a real merge, whose folder is deleted at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.check.linter import check_recipe
from mergekit_pcb.compare.candidates import candidates
from mergekit_pcb.compare.grids import automatic_sweep
from mergekit_pcb.compare.results import Merge
from mergekit_pcb.errors import PCBError
from mergekit_pcb.recipes import edits
from mergekit_pcb.recipes.findings import require_no_errors
from mergekit_pcb.recipes.layout import in_yaml
from mergekit_pcb.search.space import PCB, TASK_ARITHMETIC, Setting


@dataclass(frozen=True)
class OtherMerge:
    """A candidate without fixed contributions, which mergekit has to merge.

    Attributes:
        method: as `compare` names it, such as ``dare_ties``.
        label: the settings in words.
        recipe: what mergekit is given.
    """

    method: str
    label: str
    recipe: Mapping[str, Any] = field(compare=False)
    scale: None = None
    factors: tuple[float, ...] = ()

    @property
    def setting(self) -> Setting:
        """The method; the best of all its settings stands for it in tables."""
        return Setting(self.method)

    def __str__(self) -> str:
        return ", ".join(filter(None, [self.method, self.label]))


def other_merges(recipe: edits.Recipe, methods: Sequence[str]) -> list[OtherMerge]:
    """The settings of other methods that a search tries: those of `compare`.

    Args:
        recipe: whose models are merged, for any method.
        methods: mergekit's names.

    Raises:
        PCBError: there is no such method, it cannot merge these models, or it is one
            that every search tries.
    """
    methods = list(dict.fromkeys(methods))
    for name in methods:
        if name.partition(":")[0] in (PCB, TASK_ARITHMETIC):
            raise PCBError(
                f"--also {name}: every search tries {PCB} and {TASK_ARITHMETIC}; name "
                "other methods only"
            )
    try:
        found = candidates(recipe, methods, swept=automatic_sweep(methods))
    except PCBError as error:
        raise PCBError(f"--also: {error.message}") from error
    for each in found:
        text = in_yaml([dict(each.recipe)], [""])
        require_no_errors(check_recipe(text, f"--also {each.name}"), "")
    return [OtherMerge(each.name, each.label, each.recipe) for each in found]


@dataclass
class Merger:
    """Merges by mergekit, loads the model, and deletes its folder.

    Attributes:
        merge: runs a recipe file.
        options: what else a merge depends on, for ``json.dumps``.
        scratch: a folder for one merged model.
        load: loads a model folder for evaluation.
    """

    merge: Merge
    options: Any
    scratch: Path
    load: Callable[[Path], Any]

    def __call__(self, candidate: OtherMerge) -> Any:
        """The model in memory.

        Raises:
            PCBError: mergekit could not merge it.
        """
        recipe, folder = self.scratch / "other.yml", self.scratch / "merged"
        write_file(recipe, in_yaml([dict(candidate.recipe)], [""]))
        try:
            self.merge(recipe, folder)
            return self.load(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
