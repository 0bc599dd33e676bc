"""What a search tried and found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mergekit_pcb.search.others import OtherMerge
from mergekit_pcb.search.scores import Gap, Scored, gap, loss, mean
from mergekit_pcb.search.space import Candidate

AnyCandidate = Candidate | OtherMerge


@dataclass(frozen=True)
class Tried:
    """A candidate and its scores on the items that choose."""

    candidate: AnyCandidate
    scored: Scored

    @property
    def loss(self) -> float:
        """Lower is better; infinite if it failed."""
        return math.inf if self.scored.failed else loss(self.scored.scores)


@dataclass
class Outcome:
    """What a search found.

    Attributes:
        tried: every candidate, in order; the first is the recipe as it stands.
        best: the one that is written.
        equal: the best with the recipe's weights, of any method.
        base: scores of the base on the items that choose.
        shown: scores on the items that are shown, of start, equal and best.
        part: the items that are shown.
        notes: what else there is to say.
    """

    tried: list[Tried]
    best: Tried
    equal: Tried
    base: Scored
    shown: Mapping[AnyCandidate, Scored]
    part: str
    notes: list[str] = field(default_factory=list)


def number(tried: Tried) -> str:
    """The score of a candidate on the items that choose, as people read it."""
    return "none" if tried.scored.failed else f"{mean(tried.scored.scores):.4g}"


def differences(outcome: Outcome) -> list[tuple[Tried, Gap]]:
    """The best candidate of each setting with its `gap` to the best, least first."""
    by_setting = itertools.groupby(
        sorted(
            (t for t in outcome.tried if not t.scored.failed),
            key=lambda t: str(t.candidate.setting),
        ),
        key=lambda t: t.candidate.setting,
    )
    leaders = [min(group, key=lambda t: t.loss) for _, group in by_setting]
    leaders.sort(key=lambda t: t.loss)
    return [(t, gap(t.scored.scores, outcome.best.scored.scores)) for t in leaders]
