"""What a comparison knows of mergekit's methods: names, parameters, and defaults."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mergekit import merge_methods
from mergekit.merge_methods import MergeMethod

from mergekit_pcb.compare.budget import SCALE
from mergekit_pcb.errors import PCBError
from mergekit_pcb.recipes import edits
from mergekit_pcb.suggestions import did_you_mean

# What a method is given untuned, where mergekit has no default or one that is not meant
# for use (density 1 keeps everything). linear, model_stock, karcher and pcb run with
# mergekit's or their own defaults. Methods with a weight here sum the task vectors,
# which others average, so a weight of 1 that is right for others is far too much: of
# the weights of a recipe for others, only the proportions are kept.
_DEFAULTS: dict[str, dict[str, float]] = {
    # Without validation data: arXiv 2212.04089, and arXiv 2306.01708 as a peer.
    "task_arithmetic": {"weight": 0.4},
    # Without validation data: top 20 % and lambda 1, arXiv 2306.01708.
    "ties": {"density": 0.2},
    # arXiv 2311.03099 chooses the rate of each model; half is what mergekit's examples
    # have. The weight is that of the task arithmetic that it is added to.
    "dare_ties": {"weight": 0.4, "density": 0.5},
    "dare_linear": {"weight": 0.4, "density": 0.5},
    # As for DARE, which arXiv 2406.11617 builds on.
    "della": {"density": 0.5},
    "della_linear": {"weight": 0.4, "density": 0.5},
    # mergekit's documentation, with its default of gamma, 0.01; arXiv 2312.06795.
    "breadcrumbs": {"weight": 0.4, "density": 0.9},
    "breadcrumbs_ties": {"weight": 0.4, "density": 0.9},
    # The top 10 % of the variance, arXiv 2408.07990.
    "sce": {"select_topk": 0.1},
}
_FOR_ANY_METHOD = {"weight": 1.0, "t": 0.5}
# These mean something else for every method, which has its own defaults: a random half
# of the values is neither the largest half nor the half of the highest scores, and what
# lambda is right depends on how much of the task vectors a method keeps.
_OWN_PARAMETERS = {"density", "lambda", "normalize", "rescale", "int8_mask"}

Places = Mapping[str, Collection[str]]


def find_method(name: str) -> MergeMethod:
    """The method of a candidate: ``ties``, or ``pcb:model`` for one of its scopes.

    Raises:
        PCBError: there is none.
    """
    known = {method.spec.name: method for method in merge_methods.registered_methods()}
    method, _, scope = name.partition(":")
    if method not in known:
        raise PCBError(f"there is no merge method `{method}`; {_hint(method, known)}")
    if scope:
        scopes = [p for p in known[method].spec.parameters if p.name == "scope"]
        if not scopes:
            raise PCBError(f"`{method}` has no scope: write `{method}`, not `{name}`")
        scopes[0].validate(scope)
    return known[method]


def effective_parameters(method: MergeMethod) -> set[str]:
    """The parameters that have an effect on a method; it may accept others."""
    names = {parameter.name for parameter in method.spec.parameters}
    # mergekit gives task_arithmetic the parameters of its relatives that drop
    # coordinates, and ignores these two.
    if getattr(method, "sparsification_method", "some") is None:
        names -= {"density", "rescale"}
    return names


def require_known(
    fixed: Places, swept: Places, methods: Mapping[str, MergeMethod]
) -> None:
    """Refuse unknown names, and a parameter that is both set and swept.

    Args:
        fixed: names of parameters by place: a candidate, a method, or ``""``.
        swept: likewise.
        methods: those of the candidates.

    Raises:
        PCBError: says what was probably meant.
    """
    for place, names in fixed.items():
        known = _parameters_at(place, methods, methods.values())
        _require(names, known, f"`{place}`" if place else "any method here")
    # A method without a parameter that is swept for all tries another one instead, so a
    # parameter of any method will do there.
    registered = merge_methods.registered_methods()
    for place, names in swept.items():
        known = _parameters_at(place, methods, registered)
        known |= {SCALE} if place == "linear" else set()
        _require(names, known, f"`{place}`" if place else "any method")
    both = set().union(*fixed.values()) & set().union(*swept.values())
    if both:
        raise PCBError(f"`{min(both)}` is both set and swept: choose one")


def _parameters_at(
    place: str, methods: Mapping[str, MergeMethod], everywhere: Collection[MergeMethod]
) -> set[str]:
    meant = [m for name, m in methods.items() if place in (name, m.spec.name)]
    if place and not meant:
        raise PCBError(f"`{place}` is not compared here; {_hint(place, methods)}")
    return set().union(*map(effective_parameters, meant or everywhere))


def _require(names: Collection[str], known: set[str], owner: str) -> None:
    for name in names:
        if name not in known:
            hint = _hint(name, known)
            raise PCBError(f"`{name}` is no parameter of {owner}; {hint}")


def _hint(word: str, known: Collection[str]) -> str:
    return did_you_mean(word, known) or f"known: {', '.join(sorted(known))}"


def take_over(
    draft: edits.Recipe, source: str, target: str, known: set[str]
) -> list[str]:
    """Make of a recipe for method ``source`` one for ``target``, in place.

    Of the parameters only those stay that are ``known`` to the target and mean the
    same to it. Returns the names of the others.
    """
    dropped = edits.drop_unknown(draft, known - _OWN_PARAMETERS)
    if edits.mentions(draft, "weight"):
        # Models that have none mean what the source takes for them.
        for parameter in find_method(source).spec.parameters:
            if parameter.name == "weight" and not parameter.required:
                edits.set_default(draft, "weight", parameter.default)
    weight = _DEFAULTS.get(target, {}).get("weight")
    if weight and "weight" not in _DEFAULTS.get(source, {}):
        edits.scale_weights(draft, weight)
    elif target == "pcb":
        edits.scale_weights(draft, 1.0)
    return [name for name in dropped if name != "int8_mask"]


def add_defaults(draft: edits.Recipe, method: MergeMethod) -> None:
    """Set the parameters that the recipe leaves out and the method requires.

    Raises:
        PCBError: the method requires a parameter that has no default here.
    """
    own: dict[str, Any] = _DEFAULTS.get(method.spec.name, {})
    required = _FOR_ANY_METHOD | own
    for parameter in method.spec.parameters:
        name = parameter.name
        if parameter.required:
            if name not in required:
                raise PCBError(
                    f"{method.spec.name} needs {name}: add it to the recipe, or "
                    f"--set {method.spec.name}.{name}=VALUE"
                )
            edits.set_default(draft, name, required[name])
        elif edits.mentions(draft, name):
            continue
        elif name in own:
            edits.set_default(draft, name, own[name])
        elif name == "epsilon":
            edits.set_default(draft, name, _epsilon(draft))


def _epsilon(draft: edits.Recipe) -> float:
    """Half of what density may move by: density ± epsilon must stay in (0, 1)."""
    densities = [d for d in edits.values_of(draft, "density") if isinstance(d, float)]
    room = min([0.2, *densities, *(1 - density for density in densities)])
    return round(room / 2, 4)
