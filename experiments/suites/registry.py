"""The suites by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from experiments.suites.suite import Place, Suite


def _text(place: Place) -> Suite:
    from experiments.suites.text import Text

    return Text(place)


def _vision(size: str) -> Callable[[Place], Suite]:
    def make(place: Place) -> Suite:
        from experiments.suites.vision import Vision

        return Vision(place, size)

    return make


def _language(form: str) -> Callable[[Place], Suite]:
    def make(place: Place) -> Suite:
        from experiments.suites.language import Language

        return Language(place, form)

    return make


# Imported when they are asked for: each has libraries and packages of its own.
SUITES: Mapping[str, Callable[[Place], Suite]] = {
    "text": _text,
    "vision1": _vision("lite1"),
    "vision2": _vision("lite2"),
    "language": _language("full"),
    "language-lora": _language("lora"),
    "language-ia3": _language("ia3"),
}


def open_suite(name: str, place: Place) -> Suite:
    """The suite of that name, with its folders and device."""
    return SUITES[name](place)
