"""The tables and warnings of an inspection."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mergekit_pcb.inspect import tables
from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.inspect.quantities import cosine, percent, ratio
from tests.inspect.helpers import Family, inspect
from tests.tiny import fine_tune, llama_weights, recipe_of, save_llama


def test_summary(found: Inspection) -> None:
    """One sentence, and more for another method and for what is left out."""
    assert tables.summary(dataclasses.replace(found, recipe="a/recipe.yml")) == (
        "recipe.yml: pcb, 3 models fine-tuned from base; 21 tensors, 7.2k weights."
    )
    other = dataclasses.replace(
        found, method="ties", models=found.models[:1], skipped=("a.mask", "b.mask")
    )
    text = tables.summary(other)
    assert "ties, 1 model fine-tuned" in text
    assert text.endswith(
        "Shares kept and won are those of pcb, not of ties. "
        "Not merged: 2 tensors, first a.mask."
    )


def test_task_vectors_by_kind(found: Inspection) -> None:
    """Weights, sign conflicts and norms, each kind in its column."""
    table = tables.task_vectors(found)
    assert list(table.headings) == ["", "embed", "attn", "MLP", "norm", "head", "all"]
    weights, conflicts, title, *norms = table.rows
    assert list(weights) == ["weights", "1.0k", "2.0k", "3.1k", "80", "1.0k", "7.2k"]
    mlp, whole = found.kinds()["MLP"], found.whole
    assert conflicts[0] == "signs disagree, %"
    assert conflicts[3] == percent(mlp.conflict_share())
    assert conflicts[6] == percent(whole.conflict_share())
    assert list(title) == ["norm, % of the base's"]
    assert [row[0] for row in norms] == ["  1 tuned0", "  2 tuned1", "  3 tuned2"]
    shares = [norm / whole.base_square**0.5 for norm in whole.norms()]
    assert [row[6] for row in norms] == list(map(percent, shares))


@pytest.mark.parametrize(
    ("k", "title"),
    [
        (0, "Density 0.2, scope tensor (the recipe)"),
        (1, "Density 0.2, scope model"),
    ],
)
def test_competition_by_kind(found: Inspection, k: int, title: str) -> None:
    """What models keep and win under one setting."""
    table = tables.competition(found, k)
    assert table.title == title
    rows = {row[0]: row for row in table.rows[:4]}
    head, whole = found.kinds()["head"], found.whole
    none, one, several = head.outcomes[k].shares()
    assert rows["kept by none, %"][5] == percent(none)
    assert rows["kept by one, %"][5] == percent(one)
    assert rows["kept by several, %"][5] == percent(several)
    assert rows["merged / mean"][6] == ratio(whole.merged_over_mean(whole.outcomes[k]))
    keeps, wins = table.rows[4:8], table.rows[8:12]
    assert (list(keeps[0]), list(wins[0])) == (["keeps, %"], ["wins, %"])
    kept_shares, win_shares = (
        head.outcomes[k].kept_shares(),
        head.outcomes[k].win_shares(),
    )
    assert win_shares is not None
    assert [row[5] for row in keeps[1:]] == list(map(percent, kept_shares))
    assert [row[5] for row in wins[1:]] == list(map(percent, win_shares))


def test_defaults_are_named(found: Inspection) -> None:
    """Under another method's recipe, the first setting is pcb's."""
    other = dataclasses.replace(found, method="ties")
    assert tables.competition(other, 0).title.endswith("(pcb's defaults)")


def test_ties_are_shown_where_there_are_any(family: Family, tmp_path: Path) -> None:
    """Two equal models win nothing; elsewhere the row is left out."""
    base, tuned = family
    save_llama(tmp_path / "copy", tuned[0].tensors)
    copies = inspect(recipe_of(base, [tuned[0], tmp_path / "copy"]), tmp_path)
    assert list(tables.competition(copies, 0).rows[-1]) == ["  tied", *["100.0"] * 6]
    alone = inspect(recipe_of(base, tuned[:1]), tmp_path)
    assert tables.competition(alone, 0).rows[-1][0] == "  1 tuned0"


def test_cosines(found: Inspection) -> None:
    """Few models stand side by side; the diagonal is empty."""
    table = tables.cosines(found)
    assert list(table.headings) == ["", "1", "2", "3"]
    matrix = found.whole.cosines()
    assert table.rows[0] == ["1 tuned0", "", cosine(matrix[0][1]), cosine(matrix[0][2])]


def test_cosines_of_many_models(tmp_path: Path) -> None:
    """Each model with the one most like it and the one least like it."""
    weights = llama_weights(layers=1)
    tuned = [fine_tune(weights, i) for i in (0, 1, 2, 3, 4, 5, 0)]
    opposite = {name: 2 * tensor - tuned[0][name] for name, tensor in weights.items()}
    base, *models = (
        save_llama(tmp_path / f"m{i}", tensors)
        for i, tensors in enumerate([weights, *tuned, opposite, weights])
    )
    table = tables.cosines(inspect(recipe_of(base, models), tmp_path))
    assert list(table.headings) == ["", "highest", "with", "lowest", "with"]
    assert table.rows[0] == ["1 m1", "1.00", "7", "-1.00", "8"]
    assert table.rows[8] == ["9 m9"], "the base model has no direction"


def test_by_layer(found: Inspection) -> None:
    """One row a layer, with the model that wins most there."""
    table = tables.by_layer(found, 1)
    assert table.headings == [
        *(
            "",
            "weights",
            "disagree",
            "none",
            "one",
            "several",
            "merged",
            "wins most",
            "%",
        )
    ]
    assert table.headings[table.words] == "wins most"
    assert [row[0] for row in table.rows] == ["0", "1", "outside"]
    layer = found.layers()["1"]
    wins = layer.outcomes[1].win_shares()
    assert wins is not None
    assert table.rows[1] == [
        "1",
        "2.6k",
        percent(layer.conflict_share()),
        *map(percent, layer.outcomes[1].shares()),
        ratio(layer.merged_over_mean(layer.outcomes[1])),
        f"tuned{wins.index(max(wins))}",
        percent(max(wins)),
    ]


def test_nobody_wins_where_nothing_changed(family: Family, tmp_path: Path) -> None:
    """A layer that no model has touched has no winner."""
    base, tuned = family
    weights = {
        name: base.tensors[name] if "layers.0." in name else tensor
        for name, tensor in tuned[0].tensors.items()
    }
    model = save_llama(tmp_path / "model", weights)
    inspection = inspect(recipe_of(base, [model]), tmp_path)
    rows = tables.by_layer(inspection, 0).rows
    assert rows[0][-3:] == ["-", "-", "-"]
    assert rows[1][-2:] == ["model", "100.0"]


def test_clipped() -> None:
    """Both ends stay, and the length is what was asked for."""
    assert tables.clipped("short", 5) == "short"
    assert tables.clipped("abcdefghij", 7) == "ab…ghij"


def test_warnings(family: Family, tmp_path: Path) -> None:
    """Copies of a model and of the base, and a merge that vanishes, are pointed out."""
    base, tuned = family
    save_llama(tmp_path / "copy", tuned[0].tensors)
    save_llama(tmp_path / "untouched", base.tensors)
    models = [tuned[0], tmp_path / "copy", tmp_path / "untouched"]
    inspection = inspect(recipe_of(base, models, parameters={"lambda": 1e-6}), tmp_path)
    first, second, third = tables.warnings(inspection)
    assert first.startswith("untouched is the base model")
    assert second == "tuned0 and copy are the same model, or nearly."
    assert "the merge is the base model: it adds" in third
    assert not list(tables.warnings(inspect(recipe_of(base, tuned), tmp_path)))
