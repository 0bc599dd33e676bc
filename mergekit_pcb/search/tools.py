"""What scores candidates: in this process, or in each worker of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mergekit.options import MergeOptions

from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.compare.inputs import Inputs
from mergekit_pcb.compare.loading import load_model
from mergekit_pcb.compare.results import Merge
from mergekit_pcb.recipes import edits
from mergekit_pcb.recipes.layout import in_yaml
from mergekit_pcb.search.bench import Bench
from mergekit_pcb.search.groups import Groups, groups_for
from mergekit_pcb.search.objective import Objective
from mergekit_pcb.search.others import Merger
from mergekit_pcb.search.planned import depths, planned
from mergekit_pcb.search.space import settings

SEED_OF_MERGES = 0
"""Of the merges by mergekit, unless the user gives another one."""


class Tools(NamedTuple):
    """What makes the models of candidates.

    Attributes:
        bench: those that are sums in memory.
        merger: those of other methods.
        groups: of tensors, if each model gets a weight for each.
    """

    bench: Bench
    merger: Merger
    groups: Groups | None


@dataclass(frozen=True)
class Task:
    """What is searched, and by what; may be pickled.

    Attributes:
        method: of the recipe that is searched.
        start: the same for pcb.
        inputs: its models.
        objective: makes what scores, from the models and a folder for its files.
        options: as for a merge.
        per_group: what groups of tensors have weights of their own, see `groups_for`.
    """

    method: str
    start: edits.Recipe
    inputs: Inputs
    objective: Callable[[Inputs, Path], Objective]
    options: MergeOptions
    per_group: str | None = None

    @property
    def device(self) -> str:
        """Where models are evaluated."""
        return self.options.device or "cpu"

    def load(self, folder: Path) -> Any:
        """Load a model for evaluation."""
        trusted = self.options.trust_remote_code
        return load_model(folder, self.device, trust_remote_code=trusted)

    def tools(self, scratch: Path, merge: Merge, objective: Objective) -> Tools:
        """Plan the recipe; no weights are read yet.

        Args:
            scratch: a folder of this process alone.
            merge: runs a recipe of another method.
            objective: that models are made for.

        Raises:
            PCBError: the recipe cannot be merged.
        """
        file = scratch / "start.yml"
        write_file(file, in_yaml([self.start], [""]))
        silent = self.options.model_copy(update={"quiet": True})
        sources = planned(str(file), self.start, silent)
        groups, places = None, {}
        if self.per_group is not None:
            groups = groups_for(self.per_group, self.start, sources.names)
            places = depths(scratch, self.start, silent) if not groups.filters else {}
        bench = Bench(
            sources,
            lambda: self.load(self.inputs.find(self.inputs.base)),
            scratch,
            settings(),
            places,
            anew=not objective.leaves_weights,
        )
        return Tools(bench, Merger(merge, self.for_merges, scratch, self.load), groups)

    @property
    def for_merges(self) -> dict[str, Any]:
        """Options of merges by mergekit: those that are not the usual ones."""
        usual = MergeOptions()
        given = {
            name: value
            for name, value in self.options
            if value != getattr(usual, name) and name not in ("quiet", "verbosity")
        }
        # Methods that draw at random must draw the same when they run again.
        return {"random_seed": SEED_OF_MERGES, **given}
