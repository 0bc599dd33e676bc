"""Choosing on validation text, reporting on test text, and the table that shows it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """What predicting one text costs: bits for each window of it, and its bytes."""

    bits: Sequence[float]
    text_bytes: int

    @property
    def bits_per_byte(self) -> float:
        """What the text costs, per byte."""
        return sum(self.bits) / self.text_bytes


@dataclass(frozen=True)
class Run:
    """One model, scored on every domain's validation and test text."""

    family: str
    method: str | None  # None: not a merge
    label: str
    validation: Mapping[str, Score]
    test: Mapping[str, Score]
    refused: str | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Run:
        """Undo ``dataclasses.asdict``."""
        parts = {
            part: {domain: Score(**score) for domain, score in data[part].items()}
            for part in ("validation", "test")
        }
        return cls(**{**data, **parts})


def mean(scores: Mapping[str, Score]) -> float:
    """Mean bits per byte: every domain counts alike."""
    return statistics.fmean(score.bits_per_byte for score in scores.values())


def choose(runs: Iterable[Run]) -> list[Run]:
    """Per family the run that is best on validation text; test text is not looked at.

    A family of which every run was refused is represented by its first.
    """
    families: dict[str, list[Run]] = {}
    for run in runs:
        families.setdefault(run.family, []).append(run)
    return [
        min(
            runs,
            key=lambda run: math.inf if run.refused else mean(run.validation),
        )
        for runs in families.values()
    ]


def best_peer(run: Run, chosen: Iterable[Run]) -> Run | None:
    """The chosen run with the best test mean among those of *other* methods."""
    peers = [
        peer
        for peer in chosen
        if peer.method not in (None, run.method) and not peer.refused
    ]
    return min(peers, key=lambda peer: mean(peer.test), default=None)


def difference(run: Run, peer: Run) -> tuple[float, float]:
    """Difference of the test means, and its standard error over the test's windows.

    Both models read the same windows, so the error is that of the paired differences.
    It says how far another text of the kind could move the difference, and nothing
    of how far another fine-tuning seed could.
    """
    variances = []
    for domain, score in run.test.items():
        pairs = zip(score.bits, peer.test[domain].bits, strict=True)
        deltas = [a - b for a, b in pairs]
        spread = statistics.variance(deltas) if len(deltas) > 1 else math.nan
        variances.append(len(deltas) * spread / score.text_bytes**2)
    error = math.sqrt(sum(variances)) / len(variances)
    return mean(run.test) - mean(peer.test), error


def markdown(
    models: Sequence[Run], chosen: Sequence[Run], domains: Sequence[str]
) -> str:
    """Rows: ``models`` as they are, then ``chosen`` merges. The best merge is bold."""
    merged = [run for run in chosen if not run.refused]
    best = {
        domain: min(run.test[domain].bits_per_byte for run in merged)
        for domain in (domains if merged else ())
    }
    best_mean = min((mean(run.test) for run in merged), default=None)
    rows = [["", *domains, "mean", "to the best other method"]]
    rows.append(["---", *["---:"] * (len(domains) + 2)])
    for run in [*models, *chosen]:
        name = f"{run.family} ({run.label})" if run.label else run.family
        if run.refused:
            rows.append([f"{run.family}: {run.refused}", *[""] * (len(domains) + 2)])
            continue
        is_merge = run.method is not None
        cells = [
            _cell(run.test[d].bits_per_byte, is_merge, best.get(d)) for d in domains
        ]
        cells.append(_cell(mean(run.test), is_merge, best_mean))
        peer = best_peer(run, chosen) if is_merge else None
        if peer is None:
            cells.append("")
        else:
            value, error = difference(run, peer)
            cells.append(f"{value:+.4f} ± {error:.4f}")
        rows.append([name, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(value: float, is_merge: bool, best: float | None) -> str:
    text = f"{value:.3f}"
    return f"**{text}**" if is_merge and value == best else text
