"""`mergekit-pcb inspect`, on tiny models, beside the merges that it talks about."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from mergekit.io.tasks import LoadTensor
from mergekit.options import MergeOptions
from mergekit.scripts import merge_raw_pytorch, run_yaml
from safetensors.torch import save_file

from mergekit_pcb.cli import main
from mergekit_pcb.inspect.collect import inspect_recipe
from mergekit_pcb.inspect.export import as_csv, as_dict
from mergekit_pcb.inspect.inspection import Inspection, Setting
from mergekit_pcb.inspect.page import report_page
from mergekit_pcb.inspect.tables import warnings
from mergekit_pcb.inspect.terminal import show
from tests.tiny import (
    Model,
    Tensors,
    fine_tune,
    invoke,
    llama_weights,
    merge,
    random_weights,
    read,
    recipe_of,
    save_family,
    save_llama,
    write_recipe,
)

QUIET = MergeOptions(quiet=True)
Family = tuple[Model, list[Model]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small take longer to share among threads than to work on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return save_family(tmp_path_factory.mktemp("family"), layers=2)


@pytest.fixture(scope="module")
def found(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    """An inspection of two settings: the recipe's, and another scope."""
    recipe = recipe_of(*family, parameters={"density": 0.2})
    file = write_recipe(recipe, tmp_path_factory.mktemp("recipe") / "recipe.yml")
    return inspect_recipe(str(file), QUIET, scopes=["model"])


def inspect(recipe: Any, tmp_path: Path, **more: Any) -> Inspection:
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    return inspect_recipe(str(file), QUIET, **more)


def call(recipe: Any, tmp_path: Path, *options: object) -> Result:
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    return invoke(main, "inspect", file, "--quiet", *options)


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


# --- what is measured -----------------------------------------------------------------

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
    """A tensor that one model lacks is a contest of the others, as in the merge."""
    weights = llama_weights(layers=1, head=False)
    weights |= random_weights({"score.weight": (90, 16), "score.bias": (90,)}, seed=5)
    models = [weights, *(fine_tune(weights, i) for i in range(3))]
    del models[2]["score.bias"]
    base, *tuned = (
        save_llama(
            tmp_path / str(i), tensors, architecture="LlamaForSequenceClassification"
        )
        for i, tensors in enumerate(models)
    )
    out, _ = merge(run_yaml.main, recipe_of(base, tuned), tmp_path / "merged")
    inspection = inspect(recipe_of(base, tuned), tmp_path)
    (bias,) = (
        tensor.metrics for tensor in inspection.tensors if tensor.name == "score.bias"
    )
    added = norm(less(read(out), {"score.bias": weights["score.bias"]}))
    assert bias.outcomes[0].merged_square ** 0.5 == pytest.approx(added, rel=1e-4)
    assert bias.norms()[1] == bias.outcomes[0].kept[1] == 0
    mean = sum(models[i]["score.bias"].double() for i in (1, 3)) / 2
    delta = {"score.bias": mean - weights["score.bias"]}
    assert bias.mean_square**0.5 == pytest.approx(norm(delta))


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


def test_roll_ups(found: Inspection) -> None:
    """Kinds and layers are each the whole model; every tensor is in one of each."""
    assert list(found.kinds()) == ["embedding", "attention", "MLP", "norm", "head"]
    assert list(found.layers()) == ["0", "1", "outside"]
    for parts in (found.kinds(), found.layers()):
        assert sum(metrics.weights for metrics in parts.values()) == found.whole.weights
    assert len(found.by_layer()["0"]) == 9
    assert found.kinds()["MLP"].weights == 2 * 3 * 16 * 32


def test_another_method_is_looked_at_with_defaults(
    family: Family, found: Inspection, tmp_path: Path
) -> None:
    """The density and weight of a ties recipe say nothing about pcb."""
    recipe = recipe_of(*family, parameters={"density": 0.9, "weight": 0.3})
    other = inspect(recipe | {"merge_method": "ties"}, tmp_path)
    assert other.method == "ties"
    assert other.settings == (Setting(("tensor",), (0.1, 0.1), (1.0, 1.0)),)
    assert other.whole.norms() == found.whole.norms()


def test_base_for_recipes_without_one(
    family: Family, found: Inspection, tmp_path: Path
) -> None:
    """`--base` completes a recipe for linear, and overrules one for slerp."""
    base, tuned = family
    linear = recipe_of(base, tuned, parameters={"weight": 1.0})
    linear["merge_method"] = "linear"
    del linear["base_model"]
    completed = inspect(linear, tmp_path, base=str(base.path))
    assert completed.whole.norms() == found.whole.norms()
    slerp = recipe_of(tuned[0], tuned[:2], parameters={"t": 0.5})
    slerp["merge_method"] = "slerp"
    assert len(inspect(slerp, tmp_path).models) == 1
    assert len(inspect(slerp, tmp_path, base=str(base.path)).models) == 2


def test_base_for_slices(family: Family, tmp_path: Path) -> None:
    """In slices, the base is added with the layers of the model beside it."""
    base, tuned = family
    slices = [
        {"sources": [{"model": tuned[0], "layer_range": [0, 2]}]},
        {"sources": [{"model": tuned[1], "layer_range": [1, 2]}]},
    ]
    recipe = {"merge_method": "passthrough", "slices": slices}
    inspection = inspect(recipe, tmp_path, base=str(base.path))
    assert list(inspection.layers()) == ["0", "1", "2", "outside"]
    first, second = inspection.layers()["1"].norms(), inspection.layers()["2"].norms()
    assert first[1] == second[0] == 0
    assert first[0] > 0 < second[1]


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


def test_warnings(family: Family, tmp_path: Path) -> None:
    """Copies of a model and of the base, and a merge that vanishes, are pointed out."""
    base, tuned = family
    save_llama(tmp_path / "copy", tuned[0].tensors)
    save_llama(tmp_path / "untouched", base.tensors)
    models = [tuned[0], tmp_path / "copy", tmp_path / "untouched"]
    inspection = inspect(recipe_of(base, models, parameters={"lambda": 1e-6}), tmp_path)
    first, second, third = warnings(inspection)
    assert first.startswith("untouched is the base model")
    assert second == "tuned0 and copy are the same model, or nearly."
    assert "the merge is the base model: it adds" in third
    assert not list(warnings(inspect(recipe_of(base, tuned), tmp_path)))


# --- what is shown --------------------------------------------------------------------

FIGURES = {
    *("weights", "base_norm", "norms", "mean_norm", "cosines", "contested"),
    *("sign_conflicts", "settings"),
}
OUTCOME = {
    *("kept_by_none", "kept_by_one", "kept_by_several", "kept", "wins", "tied"),
    *("merged_norm", "merged_over_mean"),
}


def test_json(found: Inspection) -> None:
    """The keys that scripts rely on; shares add up, and nothing is NaN."""
    document = as_dict(found)
    assert set(document) == {
        *("format", "mergekit_pcb", "recipe", "merge_method", "base_model", "models"),
        *("settings", "skipped", "whole", "kinds", "layers", "tensors"),
    }
    assert document["format"] == 1
    assert document["settings"][0] == {
        "name": "density 0.2, scope tensor",
        "origin": "recipe",
        "scope": ["tensor"],
        "density": [0.2, 0.2],
        "lambda": [1.0, 1.0],
    }
    assert document["settings"][1]["origin"] == "command line"
    assert set(document["whole"]) == FIGURES
    assert set(document["tensors"]["lm_head.weight"]) == {*FIGURES, "kind", "layer"}
    for outcome in document["whole"]["settings"]:
        assert set(outcome) == OUTCOME
        assert sum(outcome[f"kept_by_{k}"] for k in ("none", "one", "several")) == (
            pytest.approx(1)
        )
        assert sum(outcome["wins"]) + outcome["tied"] == pytest.approx(1)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_csv(found: Inspection) -> None:
    """One line a tensor and setting, with the figures of the JSON document."""
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert len(rows) == len(found.tensors) * 2
    tensors = as_dict(found)["tensors"]
    row, tensor = rows[1], tensors[rows[1]["tensor"]]
    assert row["setting"] == "density 0.2, scope model"
    assert row["kind"] == tensor["kind"] == "embedding"
    assert float(row["norm tuned1"]) == tensor["norms"][1]
    assert float(row["cosine tuned0, tuned2"]) == tensor["cosines"][0][2]
    assert float(row["kept tuned1"]) == tensor["settings"][1]["kept"][1]
    assert float(row["wins tuned2"]) == tensor["settings"][1]["wins"][2]


def test_terminal(found: Inspection, capsys: pytest.CaptureFixture[str]) -> None:
    """Within 80 columns, without colour or trailing blanks when it goes to a file."""
    names = tuple(f"/models/a-name-{'that-goes-on-' * i}and-on" for i in range(3))
    show(dataclasses.replace(found, models=names), layers=True, legend=True)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "\x1b" in line or line != line.rstrip()]
    assert "Density 0.2, scope tensor (the recipe)" in lines
    assert [line for line in lines if line.startswith("merged / mean ")]
    assert [line for line in lines if line.startswith("outside ")]


def test_command_prints_tables_or_json(family: Family, tmp_path: Path) -> None:
    """Options of a merge are accepted; JSON is all there is on the standard output."""
    recipe = recipe_of(*family)
    options = ("--density", "0.3", "--no-copy-tokenizer", "--random-seed", 1)
    result = call(recipe, tmp_path, *options)
    assert result.exit_code == 0
    assert "Density 0.3, scope tensor" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yml"]
    result = call(recipe, tmp_path, "--format", "json")
    assert json.loads(result.stdout)["merge_method"] == "pcb"


def test_help_teaches() -> None:
    """An example, and none of the options that say how to write a merge."""
    text = invoke(main, "inspect", "--help").output
    assert "$ mergekit-pcb inspect recipe.yml" in text
    assert "--lora-merge-cache" in text
    assert "--out-shard-size" not in text


def test_report_folder(family: Family, tmp_path: Path) -> None:
    """--out writes everything, beside what the folder held; nothing half-written."""
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "notes.txt").touch()
    result = call(recipe_of(*family), tmp_path, "--out", tmp_path / "report")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert names == [
        "cosine.png",
        "index.html",
        "inspect.json",
        "kept-density-0.1-scope-tensor.png",
        "merged.png",
        "norms.png",
        "notes.txt",
        "tensors.csv",
        "winners-density-0.1-scope-tensor.png",
    ]
    for name in names:
        if name.endswith(".png"):
            content = (tmp_path / "report" / name).read_bytes()
            assert content.startswith(b"\x89PNG")
    html = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert_self_contained(html)
    # Two themes of each picture.
    assert html.count("data:image/png;base64,") == 2 * 5
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def assert_self_contained(html: str) -> None:
    assert not re.search(r"<script|<link|<iframe|@import|url\(", html)
    sources = re.findall(r'(?:src|srcset|href)="([^"]*)"', html)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "://" not in html


def test_page_needs_nothing_else(found: Inspection) -> None:
    """No script, no link, no address; names are text whatever they contain."""
    names = ("/models/<script>alert(1)</script>", "b&b", "c")
    html = report_page(dataclasses.replace(found, models=names), [])
    assert_self_contained(html)
    assert "&lt;script&gt;" in html
    assert "b&amp;b" in html


def test_one_model_and_no_layers(tmp_path: Path) -> None:
    """Where there is nothing to compare, no picture pretends to."""
    base = {"conv1.weight": torch.ones(4, 4), "fc.weight": torch.ones(3)}
    save_file(base, tmp_path / "base.safetensors")
    save_file(fine_tune(base, 0), tmp_path / "tuned.safetensors")
    recipe = recipe_of(tmp_path / "base.safetensors", [tmp_path / "tuned.safetensors"])
    result = call(recipe, tmp_path, "--out", tmp_path / "report")
    assert result.exit_code == 0, result.output
    pictures = sorted(path.name for path in (tmp_path / "report").glob("*.png"))
    assert pictures == ["kept-density-0.1-scope-tensor.png"]


def test_models_that_are_the_base(family: Family, tmp_path: Path) -> None:
    """There is nothing to divide by, and nothing to draw, and still a report."""
    base, _ = family
    copies = [save_llama(tmp_path / name, base.tensors) for name in ("a", "b")]
    result = call(recipe_of(base, copies), tmp_path, "--out", tmp_path / "report")
    assert result.exit_code == 0, result.output
    assert "b is the base model" in result.output
    figures = json.loads((tmp_path / "report" / "inspect.json").read_text())["whole"]
    assert figures["cosines"] == [[None, None]] * 2
    assert figures["settings"][0]["merged_over_mean"] is None


# --- what goes wrong ------------------------------------------------------------------


def failure(result: Result) -> str:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "a traceback, not a line"
    (line,) = (t for t in result.stderr.splitlines() if t.startswith("Error: "))
    return line.removeprefix("Error: ")


def test_matplotlib_is_missing(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then --out stops before any model is read; the tables need no matplotlib."""
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(LoadTensor, "execute", lambda task: pytest.fail("read"))
    said = failure(call(recipe_of(*family), tmp_path, "--out", tmp_path / "report"))
    assert said.endswith("need matplotlib: pip install 'mergekit-pcb[report]'")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert call(recipe_of(*family), tmp_path).exit_code == 0
    assert not (tmp_path / "report").exists()


def test_damaged_checkpoint_leaves_nothing(family: Family, tmp_path: Path) -> None:
    """NaN is told with model and tensor; no report appears."""
    base, tuned = family
    weights = dict(tuned[0].tensors)
    weights["lm_head.weight"] = weights["lm_head.weight"] * torch.nan
    damaged = save_llama(tmp_path / "damaged", weights)
    recipe = recipe_of(base, [damaged, tuned[1]])
    said = failure(call(recipe, tmp_path, "--out", tmp_path / "report"))
    assert said.endswith(
        "holds NaN or infinity in lm_head.weight: the checkpoint is damaged"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "recipe.yml"]


def test_interruption_leaves_nothing(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C there is no report, not even a hidden one."""

    def interrupted(task: LoadTensor) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LoadTensor, "execute", interrupted)
    result = call(recipe_of(*family), tmp_path, "--out", tmp_path / "report")
    assert result.exit_code == 1
    assert "Aborted" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yml"]


def test_wrong_recipes(family: Family, tmp_path: Path) -> None:
    """What `check` finds stops before any model is opened, in one line."""
    base, tuned = family
    recipe = recipe_of(base, tuned, parameters={"densty": 0.2})
    said = failure(call(recipe, tmp_path))
    assert said.endswith("`pcb` has no parameter `densty`; did you mean `density`?")
    recipe = recipe_of(base, [tmp_path / "a", tmp_path / "b"])
    said = failure(call(recipe, tmp_path))
    assert "does not exist" in said
    assert "(1 more: run `mergekit-pcb check" in said
    recipe = recipe_of(base, tuned, merge_method="linear", parameters={"weight": 1})
    del recipe["base_model"]
    assert "with --base" in failure(call(recipe, tmp_path))
    assert "lists no model beside the base" in failure(
        call(
            recipe_of(base, [base], merge_method="linear")
            | {"parameters": {"weight": 1}},
            tmp_path,
        )
    )


def test_several_merges_in_a_file(family: Family, tmp_path: Path) -> None:
    """mergekit-multi's files are refused in a line that says so."""
    file = write_recipe(recipe_of(*family, name="one"), tmp_path / "recipe.yml")
    first = file.read_text()
    file.write_text(f"{first}---\n{first.replace('name: one', 'name: two')}")
    said = failure(invoke(main, "inspect", file, "--quiet"))
    assert said.endswith("holds 2 merges; inspect takes one")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--density", "30"),
        ("--density", "nan"),
        ("--scope", "global"),
        ("--format", "xml"),
        ("--out", __file__),
    ],
    ids=" ".join,
)
def test_bad_use(arguments: tuple[str, str], family: Family, tmp_path: Path) -> None:
    """Exits with 2, and says what is accepted."""
    result = call(recipe_of(*family), tmp_path, *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr
