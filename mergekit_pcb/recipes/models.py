"""A model of a recipe: not text, but mergekit's reference to it.

Text is ambiguous: mergekit splits it at ``+`` (an adapter) and ``@`` (a revision), so
a folder with one of these in its path must be written in the long form; and two texts
may mean one folder. A `located` reference has local paths absolute, with links
resolved, so that equal references are equal models.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import yaml
from mergekit.common import ModelPath, ModelReference

from mergekit_pcb.errors import PCBError


def reference(value: Any) -> ModelReference:
    """A model as mergekit reads it from a recipe.

    Args:
        value: text, or the long form ``{model: {path: …, revision: …}, lora: …}``.

    Raises:
        PCBError: text with several ``+`` or ``@``.
    """
    try:
        return ModelReference.model_validate(value)
    except RuntimeError as error:  # which is what mergekit raises
        raise PCBError(
            f"mergekit cannot read the model `{value}`: a `+` or `@` in a path needs "
            "the long form `{model: {path: …}}`"
        ) from error


def located(value: Any, *, keep_links: bool = False) -> ModelReference:
    """A model, from text, the long form or a reference, with local paths resolved.

    Args:
        value: the model.
        keep_links: make paths absolute only, for the name that links give a model.
    """
    model = reference(value)
    parts = {"model": _resolved(model.model, keep_links)}
    if model.lora is not None:
        parts["lora"] = _resolved(model.lora, keep_links)
    return model.model_copy(update=parts)


def named(text: str) -> ModelReference:
    """A model as it is named in a shell.

    A path that exists is a folder, whatever characters are in it; and it begins with
    ``./`` where it could be taken for the name of a model on the hub.

    Raises:
        PCBError: text with several ``+`` or ``@`` that is no path.
    """
    if Path(text).exists():
        return ModelReference(model=_told_from_hub(_model_path(text)))
    model = reference(text)
    parts = {"model": _told_from_hub(model.model)}
    if model.lora is not None:
        parts["lora"] = _told_from_hub(model.lora)
    return model.model_copy(update=parts)


def _model_path(path: str) -> ModelPath:
    return ModelPath.model_validate({"path": path})


def _told_from_hub(model: ModelPath) -> ModelPath:
    path = model.path
    is_folder = Path(path).exists() and not Path(path).is_absolute()
    if not is_folder or path.startswith(("./", "../")):
        return model
    return model.model_copy(update={"path": f"./{path}"})


def as_written(model: ModelReference) -> str | dict[str, Any]:
    """What to write in a recipe: text where mergekit reads it as this model again."""
    text = str(model)
    try:
        if reference(text) == model:
            return text
    except PCBError:
        pass
    parts = {"model": model.model, "lora": model.lora}
    long_form: dict[str, Any] = {
        name: path.model_dump(exclude_none=True)
        for name, path in parts.items()
        if path is not None
    }
    if model.override_architecture is not None:
        long_form["override_architecture"] = model.override_architecture
    return long_form


def in_one_line(model: ModelReference) -> str:
    """The YAML that `as_written` becomes."""
    text: str = yaml.safe_dump(
        as_written(model), default_flow_style=True, allow_unicode=True, width=math.inf
    )
    return text.removesuffix("...\n").strip()


def local_folders(model: ModelReference) -> list[Path]:
    """The folders or files on this machine that a model is made of."""
    paths = [model.model, model.lora]
    found = [Path(path.path) for path in paths if path is not None]
    return [path for path in found if path.exists()]


def with_home(path: str) -> Path:
    """A path with the folder for which ``~`` stands, if there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # of a user who is not known here
        return Path(path)


def _resolved(path: ModelPath, keep_links: bool) -> ModelPath:
    local = with_home(path.path)
    if not local.exists():
        return path
    whole = os.path.abspath(local) if keep_links else local.resolve()  # noqa: PTH100
    return path.model_copy(update={"path": str(whole)})
