"""Names of methods and parameters on a command line: found, or refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mergekit import merge_methods
from mergekit.merge_methods import MergeMethod

from mergekit_pcb.compare.budget import SCALE
from mergekit_pcb.errors import PCBError
from mergekit_pcb.suggestions import did_you_mean

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
    _require_parameters(fixed, methods, methods.values(), "any method here")
    # A method without a parameter that is swept for all tries another one instead, so a
    # parameter of any method will do there.
    registered = merge_methods.registered_methods()
    _require_parameters(swept, methods, registered, "any method", {SCALE})
    both = _all_names(fixed) & _all_names(swept)
    if both:
        raise PCBError(f"`{min(both)}` is both set and swept: choose one")


def _require_parameters(
    places: Places,
    methods: Mapping[str, MergeMethod],
    all_methods: Collection[MergeMethod],
    all_in_words: str,
    of_linear: Collection[str] = (),
) -> None:
    for place, names in places.items():
        meant = _methods_at(place, methods) if place else all_methods
        known = set().union(*map(effective_parameters, meant))
        if place == "linear":
            known.update(of_linear)
        for name in names:
            if name not in known:
                owner = f"`{place}`" if place else all_in_words
                hint = _hint(name, known)
                raise PCBError(f"`{name}` is no parameter of {owner}; {hint}")


def _methods_at(place: str, methods: Mapping[str, MergeMethod]) -> list[MergeMethod]:
    meant = [m for name, m in methods.items() if place in (name, m.spec.name)]
    if not meant:
        raise PCBError(f"`{place}` is not compared here; {_hint(place, methods)}")
    return meant


def _all_names(places: Places) -> set[str]:
    return {name for names in places.values() for name in names}


def _hint(word: str, known: Collection[str]) -> str:
    return did_you_mean(word, known) or f"known: {', '.join(sorted(known))}"
