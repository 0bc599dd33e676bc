"""The metrics that `inspect` collects, beside the merges that they are about."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from mergekit.io.tasks import LoadTensor
from mergekit.scripts import merge_raw_pytorch, run_yaml
from safetensors.torch import save_file

from mergekit_pcb.errors import PCBError
from mergekit_pcb.inspect.inspection import Inspection, Setting
from tests.inspect.helpers import Family, inspect
from tests.tiny import (
    Tensors,
    merge,
    read,
    recipe_of,
    save_classifiers,
)


def norm(tensors: Tensors) -> float:
    return sum(float(t.double().square().sum()) for t in tensors.values()) ** 0.5


def less(some: Tensors, other: Tensors) -> Tensors:
    return {name: some[name].double() - other[name].double() for name in other}


def assert_as_merged(
    inspection: Inspection, merged: Tensors, base: Tensors, tuned: list[Tensors]
) -> None:
    """The figures of the first setting are those of what a merge has written."""
    deltas = [less(model, base) for model in tuned]
    mean = {name: sum(d[name] for d in deltas) / len(deltas) for name in base}
    added = less(merged, base)
    whole = inspection.whole
    assert whole.norms() == pytest.approx([norm(delta) for delta in deltas], rel=1e-5)
    assert whole.base_square**0.5 == pytest.approx(norm(base))
    ratio = whole.merged_over_mean(whole.outcomes[0])
    assert ratio == pytest.approx(norm(added) / norm(mean), rel=1e-4)
    untouched = sum(int((t == 0).sum()) for t in added.values())
    assert whole.outcomes[0].shares()[0] == pytest.approx(untouched / whole.weights)


GRADIENT = {"density": [0.1, 0.6], "lambda": 1.3, "inter": "normalized"}


MIXED = {"scope": [{"filter": "mlp", "value": "model"}, {"value": "tensor"}]}


@pytest.mark.parametrize(
    "parameters",
    [{}, {"scope": "model", "density": 0.3}, GRADIENT, MIXED],
    ids=["defaults", "whole model", "gradient", "mixed scopes"],
)
def test_figures_are_those_of_the_written_merge(
    parameters: dict, family: Family, tmp_path: Path
) -> None:
    """Norm ratio, norms and untouched share agree with mergekit-yaml's output."""
    base, tuned = family
    recipe = recipe_of(base, tuned, parameters=parameters)
    recipe["models"][0]["parameters"] = {"weight": 0.5}
    out, _ = merge(run_yaml.main, recipe, tmp_path / "merged")
    inspection = inspect(recipe, tmp_path)
    assert len(inspection.settings) == 1
    assert_as_merged(
        inspection, read(out), base.tensors, [model.tensors for model in tuned]
    )


def test_a_model_without_an_optional_tensor(tmp_path: Path) -> None:
    """A tensor that one model lacks is a competition of the others, as in the merge."""
    base, *tuned = save_classifiers(tmp_path, [True, True, False, True])
    out, _ = merge(run_yaml.main, recipe_of(base, tuned), tmp_path / "merged")
    inspection = inspect(recipe_of(base, tuned), tmp_path)
    (bias,) = (t.metrics for t in inspection.tensors if t.name == "score.bias")
    before = base.tensors["score.bias"]
    added = norm(less(read(out), {"score.bias": before}))
    assert bias.outcomes[0].merged_square ** 0.5 == pytest.approx(added, rel=1e-4)
    assert bias.norms()[1] == bias.outcomes[0].kept[1] == 0
    mean = sum(tuned[i].tensors["score.bias"].double() for i in (0, 2)) / 2
    assert bias.mean_square**0.5 == pytest.approx(norm({"score.bias": mean - before}))


def test_mergekit_pytorch_recipes(family: Family, tmp_path: Path) -> None:
    """Recipes of single files are streamed as mergekit-pytorch would."""
    base, tuned = family
    files = []
    for i, model in enumerate((base, *tuned)):
        files.append(tmp_path / f"{i}.safetensors")
        save_file(model.tensors, files[-1])
    recipe = recipe_of(files[0], files[1:], parameters={"scope": "model"})
    out, _ = merge(merge_raw_pytorch.main, recipe, tmp_path / "merged")
    inspection = inspect(recipe, tmp_path)
    assert list(inspection.layers()) == ["0", "1", "outside"]
    assert_as_merged(
        inspection, read(out), base.tensors, [model.tensors for model in tuned]
    )


def test_settings_beside_the_recipes(family: Family, tmp_path: Path) -> None:
    """Each scope with each density, the recipe's own first and none twice."""
    recipe = recipe_of(*family, parameters={"density": 0.2, "lambda": 1.2})
    inspection = inspect(recipe, tmp_path, densities=[0.1, 0.2], scopes=["tensor"])
    assert list(map(str, inspection.settings)) == [
        "density 0.2, scope tensor, lambda 1.2",
        "density 0.1, scope tensor, lambda 1.2",
    ]


def test_density_is_reached_over_the_domain(found: Inspection) -> None:
    """Scope tensor keeps it in every kind, scope model only altogether."""
    tensor, model = (
        {
            kind: metrics.outcomes[k].kept_shares()
            for kind, metrics in found.kinds().items()
        }
        for k in (0, 1)
    )
    assert tensor["MLP"] == pytest.approx([0.2] * 3, abs=0.005)
    assert found.whole.outcomes[1].kept_shares() == pytest.approx([0.2] * 3, abs=1e-3)
    assert model["MLP"] != pytest.approx([0.2] * 3, abs=0.005)


def test_another_method_is_looked_at_with_defaults(
    family: Family, found: Inspection, tmp_path: Path
) -> None:
    """The density and weight of a ties recipe say nothing about pcb."""
    recipe = recipe_of(*family, parameters={"density": 0.9, "weight": 0.3})
    other = inspect(recipe | {"merge_method": "ties"}, tmp_path)
    assert other.method == "ties"
    assert other.settings == (Setting(("tensor",), (0.2, 0.2), None, automatic=True),)
    assert other.whole.norms() == found.whole.norms()


@pytest.mark.usefixtures("none_is_small")
def test_only_one_tensor_at_a_time_is_in_memory(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all tensors of all models, those of one or two are alive at any moment."""
    alive: set[int] = set()
    most, loaded = [0], [0]
    load = LoadTensor.execute

    def counted(task: LoadTensor) -> torch.Tensor | None:
        tensor = load(task)
        loaded[0] += 1
        alive.add(loaded[0])
        weakref.finalize(tensor, alive.discard, loaded[0])
        most[0] = max(most[0], len(alive))
        return tensor

    monkeypatch.setattr(LoadTensor, "execute", counted)
    recipe = recipe_of(*family, parameters={"scope": "model"})
    inspection = inspect(recipe, tmp_path)
    # Sampling, magnitudes, scores, and the metrics themselves.
    assert loaded[0] == 4 * 4 * len(inspection.tensors)
    assert most[0] <= 2 * 4


def test_tensors_that_are_not_merged_are_named(family: Family, tmp_path: Path) -> None:
    """A tensor that the base lacks, and one of integers, are left out."""
    base, tuned = family
    extra = {"mask": torch.ones(4, dtype=torch.int32), "new.weight": torch.ones(4)}
    files = [tmp_path / name for name in ("base.safetensors", "tuned.safetensors")]
    save_file(base.tensors | {"mask": extra["mask"]}, files[0])
    save_file(tuned[0].tensors | extra, files[1])
    inspection = inspect(recipe_of(files[0], files[1:]), tmp_path)
    assert inspection.skipped == ("mask", "new.weight")
    assert len(inspection.tensors) == len(base.tensors)


def test_nothing_to_merge(tmp_path: Path) -> None:
    """Models that share no tensor with the base are an error, not an empty table."""
    files = [tmp_path / name for name in ("base.safetensors", "tuned.safetensors")]
    for file, name in zip(files, ("a.weight", "b.weight"), strict=True):
        save_file({name: torch.ones(4)}, file)
    with pytest.raises(PCBError, match="merges no tensor that its base model has"):
        inspect(recipe_of(files[0], files[1:]), tmp_path)


@pytest.mark.usefixtures("none_is_small")
def test_passes_are_shared(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More densities over the whole model load no tensor once more."""
    load = LoadTensor.execute
    loaded: list[str] = []

    def counted(task: LoadTensor) -> torch.Tensor | None:
        loaded.append(task.tensor)
        return load(task)

    monkeypatch.setattr(LoadTensor, "execute", counted)
    recipe = recipe_of(*family, parameters={"scope": "model"})
    inspection = inspect(recipe, tmp_path, densities=[0.1, 0.3])
    assert len(inspection.settings) == 3
    assert len(loaded) == 4 * 4 * len(inspection.tensors)
