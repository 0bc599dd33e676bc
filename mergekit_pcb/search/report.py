"""What a search found, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mergekit_pcb.compare.columns import WINNER
from mergekit_pcb.compare.evaluation import ALL
from mergekit_pcb.compare.grids import GRIDS
from mergekit_pcb.compare.scoreboard import BASE, MERGE, Row, Scoreboard
from mergekit_pcb.recipes import edits
from mergekit_pcb.search.others import OtherMerge
from mergekit_pcb.search.outcome import (
    AnyCandidate,
    Outcome,
    Tried,
    differences,
    number,
)
from mergekit_pcb.search.scores import Gap, Scored, gap, mean
from mergekit_pcb.search.space import LAMBDA_FACTORS, PCB, RECIPE, TASK_ARITHMETIC


@dataclass(frozen=True)
class Report:
    """The result of a search, and what it is the result of.

    Attributes:
        recipe: the file.
        method: of the recipe; the search begins with pcb, whatever it is.
        start: the recipe for pcb that the search began with.
        folder: where the files of the report are.
        outcome: what was found.
        evaluated: by what, as a sentence.
        how_chosen: which items chose, if others are shown.
        inputs: how many inputs each expert had, if agreement scored.
        models: short names of the experts, in the order of weights.
        random_seed: of the merges by mergekit.
        seed: of the search.
        conditions: versions, by name.
        generated: whether texts that models generated have chosen.
    """

    recipe: str
    method: str
    start: edits.Recipe
    folder: Path
    outcome: Outcome
    evaluated: str
    how_chosen: str
    inputs: dict[str, int]
    models: Sequence[str]
    random_seed: int
    seed: int
    conditions: dict[str, str]
    generated: bool = False

    @property
    def title(self) -> str:
        """What the report is about."""
        return f"Settings for the models of {Path(self.recipe).name}, searched"

    @property
    def scoreboard(self) -> Scoreboard:
        """The base, the start, and the best of each setting, on the choosing items."""
        leaders = [tried for tried, _ in differences(self.outcome)]
        start = self.outcome.tried[0]
        chosen = dict.fromkeys(t.candidate for t in (start, *leaders))
        found = {t.candidate: t.scored for t in self.outcome.tried}
        rows = [self._row(candidate, found[candidate]) for candidate in chosen]
        return Scoreboard(Scoreboard([self._base(), *rows]).in_order())

    @property
    def shown(self) -> Scoreboard:
        """Start, equal weights and best, on items that did not choose."""
        return Scoreboard([self._row(c, s) for c, s in self.outcome.shown.items()])

    @property
    def began_with(self) -> str:
        """What the search began with, in words."""
        if self.method == PCB:
            return "the recipe as it stands"
        return "pcb with its defaults"

    def _base(self) -> Row:
        base = self.outcome.base
        return Row(BASE, BASE, base.scores, failed=base.failed)

    def _row(self, candidate: AnyCandidate, scored: Scored) -> Row:
        setting = candidate.setting
        name, _, density = str(setting).partition(", ")
        words = [density] if density else []
        words += str(candidate).removeprefix(str(setting)).lstrip(", ").split(", ")
        if setting.method == RECIPE:
            words = [self.began_with]
        label = ", ".join(filter(None, words))
        method = method_of(candidate)
        return Row(MERGE, name, scored.scores, method, label, failed=scored.failed)


def answer(report: Report) -> str:
    """The result in one line: what was found, and how sure it is.

    Numbers are those of the items that are shown; the others have chosen.
    """
    outcome = report.outcome
    best, start = (
        Tried(t.candidate, outcome.shown[t.candidate])
        for t in (outcome.best, outcome.tried[0])
    )
    named = str(best.candidate)
    if best.candidate.setting.method == RECIPE:
        named = report.began_with
    text = f"Best: {named}: {number(best)} ({_metric(outcome.best)}"
    text += ")" if outcome.part == ALL else ", on items that did not choose)"
    if start.candidate != best.candidate and not start.scored.failed:
        text += f"; {report.began_with} {number(start)}"
        if not best.scored.failed:
            text += f", {_against(gap(start.scored.scores, best.scored.scores))}"
    rivals = [(t, g) for t, g in differences(outcome) if _is_rival(t, outcome.best)]
    if rivals:
        rival, difference = rivals[0]
        where = "" if outcome.part == ALL else ", on the items that chose"
        text += (
            f"; best of another method{where}: {rival.candidate}, {number(rival)}, "
            f"{_against(difference)}"
        )
    return f"{text}{_beside_base(outcome)}."


def _beside_base(outcome: Outcome) -> str:
    """What there is to say if no merge is better than the base."""
    base = outcome.base
    if base.failed or gap(outcome.best.scored.scores, base.scores).value < 0:
        return ""
    where = "" if outcome.part == ALL else ", on the items that chose"
    return f"; no merge is better than the base, {mean(base.scores):.4g}{where}"


def _metric(tried: Tried) -> str:
    """What the mean of the scores is of, and whether it should be high or low."""
    scores = list(tried.scored.scores.values())
    metrics = dict.fromkeys(score.metric for score in scores)
    better = "higher" if scores[0].higher_is_better else "lower"
    return f"{' and '.join(metrics)}, {better} is better"


def _is_rival(tried: Tried, best: Tried) -> bool:
    return method_of(tried.candidate) != method_of(best.candidate)


def method_of(candidate: AnyCandidate) -> str:
    """The merge method; the recipe that the search began with is for pcb."""
    method = candidate.setting.method.partition(":")[0]
    return PCB if method == RECIPE else method


def _against(difference: Gap) -> str:
    """How much worse something is than the best, and whether that is more than noise.

    Example:
        >>> _against(Gap(0.01, 0.002)), _against(Gap(0.001, 0.002))
        ('worse by 0.01 ± 0.002', 'level within twice the error (0.001 ± 0.002)')
        >>> _against(Gap(-0.01, 0.002))
        'better by 0.01 ± 0.002'
    """
    value, error = difference
    word = "worse" if value >= 0 else "better"
    if error is None:
        return f"{word} by {abs(value):.3g}, of unknown error"
    if abs(value) <= 2 * error:
        return f"level within twice the error ({value:.3g} ± {error:.2g})"
    return f"{word} by {abs(value):.3g} ± {error:.2g}"


def notes(report: Report) -> Iterator[str]:
    """How to read the tables, and what they do not say."""
    outcome = report.outcome
    yield f"{report.evaluated}."
    if report.method != PCB:
        text = (
            f"{Path(report.recipe).name} is a recipe for {report.method}: the search "
            "began with its models merged by pcb with the defaults"
        )
        tried = {TASK_ARITHMETIC, *(t.candidate.setting.method for t in outcome.tried)}
        if report.method in GRIDS.keys() - tried:
            text += f"; --also {report.method} tries that method as well"
        yield f"{text}."
    yield (
        f"{WINNER}: the best; bold or *: the best of a column; "
        f"{PCB}:model is {PCB} with `scope: model`. To peer: the mean less that of the "
        "best candidate of another method."
    )
    if report.generated:
        yield (
            "Agreement on texts that the models generate is no score on tasks, and "
            "likes smaller lambdas than labels do: before you use the result, set it "
            "beside the recipe with `mergekit-pcb compare --recipe`, on your own data."
        )
    if report.inputs:
        counts = sorted(set(report.inputs.values()))
        many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        yield (
            f"{many} inputs of each model. ±: standard error over inputs, of paired "
            "differences where two candidates are compared. It says nothing of inputs "
            "of another kind."
        )
    if outcome.part == ALL:
        yield (
            "The items that chose are those shown: the best of many candidates looks "
            "better there than it is."
        )
    else:
        yield f"Settings were chosen on other items: {report.how_chosen}."
    scale = outcome.best.candidate.scale
    own = sorted(
        t.candidate.scale
        for t in outcome.tried
        if t.candidate.setting == outcome.best.candidate.setting
        and t.candidate.scale is not None
    )
    if len(own) > 1 and scale in (own[0], own[-1]):
        end = "smallest" if scale == own[0] else "largest"
        yield f"Lambda {scale:g} is the {end} that was tried: the best may lie beyond."
    yield (
        "Lambdas tried first are those that `auto` would choose for the whole model "
        f"times {', '.join(f'{f:g}' for f in LAMBDA_FACTORS)}; then some beside the "
        "best of each method."
    )
    others = [t.candidate for t in outcome.tried if isinstance(t.candidate, OtherMerge)]
    if others:
        methods = ", ".join(dict.fromkeys(other.method for other in others))
        yield (
            f"Merged by mergekit, {len(others)} times: {methods}, with the settings of "
            "`mergekit-pcb compare --sweep auto`. Of methods that draw at random, "
            f"mergekit-yaml gives these merges with --random-seed {report.random_seed}."
        )
    yield from outcome.notes
    yield from _failures(outcome)


def _failures(outcome: Outcome) -> Iterator[str]:
    if outcome.base.failed:
        yield f"The base could not be scored: {outcome.base.failed}"
    failed = [t for t in outcome.tried if t.scored.failed]
    if failed:
        many = "candidates" if len(failed) > 1 else "candidate"
        yield (
            f"{len(failed)} {many} failed, the first, {failed[0].candidate}: "
            f"{failed[0].scored.failed}"
        )
    if outcome.part != ALL:
        for candidate, scored in outcome.shown.items():
            if scored.failed:
                yield (
                    f"{candidate} could not be scored on the items that did not "
                    f"choose: {scored.failed}"
                )
