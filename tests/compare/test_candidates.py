"""From one recipe to one for every method, as many for each, with its defaults."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from mergekit.config import MergeConfiguration

from mergekit_pcb.check.linter import check_recipe
from mergekit_pcb.compare.candidates import METHODS, Candidate, candidates
from mergekit_pcb.compare.grids import automatic_sweep
from mergekit_pcb.compare.inputs import inputs_of
from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.parameters import DEFAULT_DENSITY, DEFAULT_LAMBDA
from mergekit_pcb.recipes.findings import ERROR

MODELS = ["org/base", "org/a", "org/b", "org/c"]


def recipe(method: str = "pcb", *, models: Any = None, **parameters: Any) -> Any:
    entries = [{"model": model} for model in MODELS[1:]] if models is None else models
    return {
        "merge_method": method,
        "base_model": MODELS[0],
        "models": entries,
        "parameters": parameters,
        "tokenizer": {"source": "base"},
    }


def weighted(*weights: Any) -> list[dict[str, Any]]:
    return [
        {"model": model, "parameters": {"weight": weight}}
        for model, weight in zip(MODELS[1:], weights, strict=False)
    ]


def only(document: Any, name: str, **more: Any) -> Candidate:
    (candidate,) = candidates(document, [name], **more)
    return candidate


def weights_of(candidate: Candidate) -> list[Any]:
    return [
        (entry.get("parameters") or {}).get(
            "weight", candidate.recipe["parameters"].get("weight")
        )
        for entry in candidate.recipe["models"]
    ]


@pytest.mark.parametrize("method", ["pcb", "ties", "linear", "task_arithmetic"])
def test_default_candidates_are_recipes_that_check_accepts(method: str) -> None:
    """From a recipe for any method come eight without an error."""
    document = recipe(method, weight=1.0)
    found = candidates(document)
    assert [candidate.name for candidate in found] == list(METHODS)
    for candidate in found:
        text = yaml.safe_dump(candidate.recipe)
        errors = [f for f in check_recipe(text, "r", "yaml") if f.severity == ERROR]
        assert not errors, candidate.name
        MergeConfiguration.model_validate(candidate.recipe)
    assert document == recipe(method, weight=1.0), "the recipe itself is not changed"


def test_own_method_keeps_its_recipe() -> None:
    """The method that the recipe is for runs as it says."""
    document = recipe("ties", density=0.3, normalize=False, models=weighted(2, 1))
    assert only(document, "ties").recipe == document


def test_other_methods_take_what_they_know() -> None:
    """What a method lacks, or means otherwise, is dropped, and the note says so."""
    found = only(recipe("pcb", density=0.3, clamp=0.0, **{"lambda": 1.2}), "ties")
    assert found.recipe["parameters"] == {"density": 0.2, "weight": 1.0}
    assert found.note == "without clamp, density, lambda"
    assert found.label == "density 0.2, weight 1, lambda 1"


def test_switches_stay_with_their_method() -> None:
    """`normalize` of a TIES recipe does not turn task arithmetic into an average."""
    found = only(recipe("ties", weight=1.0, normalize=True), "task_arithmetic")
    assert "normalize" not in found.recipe["parameters"]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("linear", "weight 1"),
        ("task_arithmetic", "weight 0.4, lambda 1"),
        ("ties", "density 0.2, weight 1, lambda 1"),
        ("della", "density 0.5, epsilon 0.1, weight 1, lambda 1"),
        ("sce", "select_topk 0.1"),
        ("pcb", f"density {DEFAULT_DENSITY}, weight 1, lambda {DEFAULT_LAMBDA}"),
        ("breadcrumbs", "density 0.9, gamma 0.01, weight 0.4, lambda 1"),
        ("dare_ties", "density 0.5, weight 0.4, lambda 1"),
        ("model_stock", ""),
        ("slerp", "t 0.5"),
        ("karcher", ""),
    ],
)
def test_the_label_names_the_defaults_of_a_method(name: str, label: str) -> None:
    """Where a value is published for use without tuning, it is that one."""
    assert only(recipe(), name).label == label


def test_a_method_that_adds_up_keeps_proportions_of_weights() -> None:
    """Weights of an average would be far too much in a sum."""
    document = recipe("pcb", models=weighted(2.0, 1.0, 1.0))
    assert weights_of(only(document, "task_arithmetic")) == [0.6, 0.3, 0.3]
    assert weights_of(only(document, "ties")) == [2.0, 1.0, 1.0]
    document = recipe("task_arithmetic", models=weighted(0.2, 0.2, 0.2))
    assert weights_of(only(document, "dare_ties")) == [0.2, 0.2, 0.2]
    assert weights_of(only(document, "pcb")) == [1.0, 1.0, 1.0]


def test_a_model_without_a_weight_means_the_default() -> None:
    """Of the method that the recipe is for: proportions stay."""
    models = weighted(0.5, 0.5, 0.5)
    del models[0]["parameters"]
    found = only(recipe("pcb", models=models), "task_arithmetic")
    # 1 to 0.5 to 0.5, with a mean of 0.4.
    assert weights_of(found) == pytest.approx([0.6, 0.3, 0.3])


@pytest.mark.parametrize(
    ("weights", "of_pcb"), [((0.5, -1.0), (0.66667, -1.33333)), ((1, -1), (1, -1))]
)
def test_a_model_that_is_subtracted_stays_so(weights: Any, of_pcb: Any) -> None:
    """Sizes are scaled, and the base's own weight is left alone."""
    models = weighted(*weights)
    base = {"model": MODELS[0], "parameters": {"weight": [0.0, 1.0]}}
    found = only(recipe("ties", models=[*models, base]), "pcb")
    assert weights_of(found)[:2] == pytest.approx(of_pcb, rel=1e-4)
    assert weights_of(found)[2:] == [[0.0, 1.0]]


def test_a_gradient_that_no_model_takes_is_left_alone() -> None:
    """Every model has a weight of its own."""
    document = recipe("ties", models=weighted(0.5, 0.5, 0.5), weight=[0.0, 1.0])
    assert weights_of(only(document, "pcb")) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("weights", [(1, -1, 1), (0, 0, 0), ([0, 1], 1, 1)])
def test_weights_that_cannot_be_averaged_into_the_base(weights: Any) -> None:
    """The scale of an average is by weights that add up."""
    swept = automatic_sweep(["linear"])
    with pytest.raises(PCBError, match="by layer, below 0 or all 0 cannot be swept"):
        candidates(recipe(models=weighted(*weights)), ["linear"], swept=swept)


def test_statistics_belong_to_the_recipe_alone() -> None:
    """Those of `scope: model` are of no use to another scope or density."""
    found = candidates(recipe(statistics="a.json", scope="model"), ["pcb", "pcb:model"])
    assert all("statistics" not in c.recipe["parameters"] for c in found)


def test_gradients_are_left_alone() -> None:
    """A weight by layer goes to every method as it is."""
    document = recipe("pcb", models=weighted([0.0, 1.0], 1.0, 1.0))
    found = only(document, "task_arithmetic")
    assert weights_of(found) == [[0.0, 1.0], 1.0, 1.0]
    assert "weight by layer" in found.label


def test_della_gets_an_epsilon_that_fits_its_density() -> None:
    """Density plus and minus epsilon stays between 0 and 1."""
    found = only(recipe(), "della", fixed={"della": {"density": 0.1}})
    assert found.recipe["parameters"]["epsilon"] == 0.05


@pytest.mark.parametrize("listed", [False, True])
def test_the_base_is_not_averaged_in(listed: bool) -> None:
    """In a method without a base it has weight 0, or no entry where none has weight."""
    document = recipe("ties", weight=1.0)
    if listed:
        document["models"].append({"model": MODELS[0]})
    linear = only(document, "linear")
    assert weights_of(linear) == [1.0, 1.0, 1.0, 0.0]
    assert linear.recipe["models"][-1]["model"] == MODELS[0]
    # Configuration and tokenizer are those of the base, as for every other method.
    assert linear.recipe["base_model"] == MODELS[0]
    assert linear.recipe["tokenizer"] == {"source": "base"}
    found = only(document, "karcher").recipe
    assert "base_model" not in found
    assert [entry["model"] for entry in found["models"]] == MODELS[1:]
    assert found["tokenizer"] == {"source": MODELS[0]}


def test_an_average_of_the_base_stays_one() -> None:
    """A recipe for `linear` that lists the base with a weight is run as it is."""
    entries = weighted(1.0, 1.0)
    entries.append({"model": MODELS[0], "parameters": {"weight": 0.5}})
    document = recipe("linear", models=entries)
    assert only(document, "linear").recipe == document


@pytest.mark.parametrize("half", ["5e-1", "0.5", [0.5], [{"value": "0.5"}]])
def test_a_number_is_a_number_however_it_is_written(half: Any) -> None:
    """What mergekit reads as one number is scaled and swept as one."""

    def made(weight: Any) -> list[Candidate]:
        return candidates(
            recipe("pcb", models=weighted(weight, 1.0, 1.0)),
            ["linear", "task_arithmetic", "ties"],
            swept={"": {"lambda": [0.5, 1.0]}},
        )

    found, expected = made(half), made(0.5)
    assert [c.label for c in found] == [c.label for c in expected]
    assert weights_of(found[0]) == weights_of(expected[0])
    assert weights_of(found[2]) == weights_of(expected[2]) == [0.24, 0.48, 0.48]


def test_slices_are_edited_like_models() -> None:
    """Parameters and bases inside slices are found."""
    sources = [
        {"model": m, "layer_range": [0, 4], "parameters": {"weight": 1.0, "clamp": 0}}
        for m in MODELS[1:3]
    ]
    document = {
        "merge_method": "pcb",
        "slices": [{"sources": sources, "base_model": MODELS[0]}],
    }
    assert str(inputs_of(copy.deepcopy(document)).base) == MODELS[0]
    (scaled, *_) = candidates(document, ["linear"], swept={"": {"lambda": [0.5, 1.0]}})
    entries = scaled.recipe["slices"][0]["sources"]
    assert [entry["parameters"]["weight"] for entry in entries] == [0.25, 0.25, 0.5]
    assert entries[-1] == {
        "model": MODELS[0],
        "layer_range": [0, 4],
        "parameters": {"weight": 0.5},
    }
    assert "clamp" not in str(scaled.recipe)


@pytest.mark.parametrize(
    "swept",
    [
        {"lambda": [0.6, 1.0, 1.4]},
        {"density": [0.1, 0.4]},
        {"lambda": [0.6, 1.0, 1.4], "density": [0.1, 0.4]},
        {"select_topk": [0.1, 0.2, 0.5, 1.0]},
    ],
)
def test_every_method_gets_the_same_number_of_different_tries(swept: Any) -> None:
    """A method without the swept parameter tries another one as often."""
    budget = 1
    for values in swept.values():
        budget *= len(values)
    found = candidates(recipe(), swept={"": swept})
    for name in METHODS:
        recipes = [str(c.recipe) for c in found if c.name == name]
        assert len(set(recipes)) == len(recipes) == budget, name


ALL_PEERS = (*METHODS, "breadcrumbs", "model_stock", "karcher", "slerp")
SUMMING = ("dare_linear", "della_linear", "breadcrumbs_ties")


def test_auto_sweep_has_six_settings_for_whom_has_so_many() -> None:
    """A switch has two, others none; what is used untuned is among the settings."""
    names = [*ALL_PEERS, *SUMMING]
    found = candidates(recipe(), names, swept=automatic_sweep(names))
    few = {"model_stock": 2, "karcher": 1, "slerp": 1}
    for name in names:
        recipes = [str(c.recipe) for c in found if c.name == name]
        assert len(set(recipes)) == len(recipes) == few.get(name, 6), name
        labels = [c.label for c in found if c.name == name]
        untuned = only(recipe(), name).label
        if name == "linear":
            untuned = f"scale 1, {untuned}"
        elif name == "model_stock":
            untuned = "filter_wise off"
        assert untuned in labels, name


def test_auto_sweep_gives_way_to_values_for_one_method() -> None:
    """They must be as many as the others have."""
    swept: Any = automatic_sweep(["ties", "pcb"]) | {"ties": {"lambda": [1.0, 2.0]}}
    with pytest.raises(PCBError, match="the same number of tries: ties 2, pcb 6"):
        candidates(recipe(), ["ties", "pcb"], swept=swept)


def test_what_cannot_be_turned_is_tried_once() -> None:
    """Karcher means have no scale of any kind."""
    assert only(recipe(), "karcher", swept={"": {"lambda": [0.6, 1.0]}}).swept == {}


def test_scale_of_linear_is_its_lambda() -> None:
    """Scale s gives 1 - s to the base and s / n to each model."""
    swept = {"": {"lambda": [0.6, 1.0, 1.5]}}
    found = candidates(recipe(), ["linear"], swept=swept)
    assert weights_of(found[0]) == pytest.approx([0.2, 0.2, 0.2, 0.4])
    assert weights_of(found[1]) == [1.0, 1.0, 1.0, 0.0]
    assert weights_of(found[2]) == pytest.approx([0.5, 0.5, 0.5, -0.5])
    assert found[2].recipe["parameters"]["normalize"] is False
    assert [candidate.swept for candidate in found] == [
        {"scale": 0.6},
        {"scale": 1.0},
        {"scale": 1.5},
    ]


def test_a_method_may_have_a_range_of_its_own() -> None:
    """Values for one method take the place of those for all."""
    swept = {
        "": {"lambda": [1.0, 1.4]},
        "task_arithmetic": {"weight": [0.3, 0.6]},
        "linear": {"scale": [1.0, 1.2]},
    }
    found = candidates(recipe(), ["linear", "task_arithmetic", "ties"], swept=swept)
    assert [candidate.swept for candidate in found] == [
        {"scale": 1.0},
        {"scale": 1.2},
        {"weight": 0.3},
        {"weight": 0.6},
        {"lambda": 1.0},
        {"lambda": 1.4},
    ]


def test_what_is_set_beats_the_recipe_and_the_nearest_place_wins() -> None:
    """The candidate's own setting beats the method's, which beats everybody's."""
    fixed = {
        "": {"density": 0.3},
        "pcb": {"density": 0.4},
        "pcb:model": {"density": 0.5},
    }
    document = recipe(
        "pcb", models=[{"model": MODELS[1], "parameters": {"density": 1}}]
    )
    found = candidates(document, ["ties", "pcb", "pcb:model"], fixed)
    assert [c.label.split(",")[0] for c in found] == [
        "density 0.3",
        "density 0.4",
        "density 0.5",
    ]
    assert [c.recipe["parameters"].get("scope") for c in found] == [
        None,
        "tensor",
        "model",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["tise"]}, "there is no merge method `tise`; did you mean `ties`?"),
        ({"names": ["ties:model"]}, "`ties` has no scope"),
        ({"names": ["pcb:modle"]}, "scope must be tensor or model, got 'modle'"),
        (
            {"fixed": {"ties": {"densty": 0.1}}},
            "`densty` is no parameter of `ties`; did you mean `density`?",
        ),
        ({"fixed": {"tis": {}}}, "`tis` is not compared here; did you mean `ties`?"),
        ({"fixed": {"ties": {"density": "much"}}}, "ties: density"),
        ({"fixed": {"pcb": {"density": 30}}}, "did you mean 0.3?"),
        ({"swept": {"": {"lamda": [1.0]}}}, "did you mean `lambda`?"),
        ({"swept": {"": {"lambda": ["a", "b"]}}}, "lambda is 'a': "),
        ({"swept": {"linear": {"scale": ["a", 1]}}}, "scale is 'a'"),
        (
            {"swept": {"pcb": {"density": [[0.1, 0.3], [0.2, 0.4]]}}},
            "[0.1, 0.3] differs by layer or tensor, and only single values can be",
        ),
        (
            {"swept": {"ties": {"lambda": ["auto", 1]}}},
            "ties: lambda is 'auto': only pcb takes it; write pcb.lambda=auto",
        ),
        ({"swept": {"linear": {"lambda": [1.0]}}}, "no parameter of `linear`"),
        (
            {
                "swept": {
                    "": {"lambda": [1.0, 2.0]},
                    "pcb": {"density": [0.1, 0.2, 0.4]},
                }
            },
            "every method needs the same number of tries: ",
        ),
        (
            {"swept": {"": {"lambda": [1.0]}}, "fixed": {"pcb": {"lambda": 1.0}}},
            "`lambda` is both set and swept",
        ),
    ],
)
def test_mistakes_are_named(arguments: Any, message: str) -> None:
    """What cannot be compared is refused in one line that says what was meant."""
    with pytest.raises(PCBError) as caught:
        candidates(recipe(), **arguments)
    assert message in caught.value.message
