"""Models that mergekit cannot find, or cannot read as what they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from mergekit.common import ModelPath, ModelReference

from mergekit_pcb.check.rules.document import PYTORCH, WEIGHT_FILES, Document
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.models import as_written, in_one_line, with_home
from mergekit_pcb.recipes.near_paths import near_paths
from mergekit_pcb.recipes.positions import Place
from mergekit_pcb.suggestions import did_you_mean, quoted

_LOCAL = re.compile(r"[.~]{1,2}[/\\]|[/\\]|[A-Za-z]:[/\\]|~$")
_WHOLE_FOLDERS = ", and mergekit-yaml reads whole model folders"
_NAME_ITS_FOLDER = "name its folder, or use mergekit-pytorch for single files"


def wrong_references(document: Document) -> Iterator[Finding]:
    """Models that mergekit cannot find, or cannot read as what they are."""
    adapters = []
    for place in document.references():
        model = document.parse(place)
        if document.kind != PYTORCH and (meant := _read_apart(place.value)):
            yield place.error(
                f"mergekit reads the path `{place.value}` as a model with a revision "
                "or an adapter",
                f"write `{_key(place)}: {in_one_line(meant)}`",
            )
            continue
        if model is None:
            problem = f"a model is one text, got {place.value!r}"
            fix = "write `owner/name` or a folder"
            if isinstance(place.value, str):
                problem = f"`{place.value}` is not a model"
                fix = "write `owner/name@revision+adapter`"
            yield place.error(problem, fix)
            continue
        path = model.model.path
        if place.value in document.siblings:
            continue  # by its name in this file, whatever that looks like
        if path.startswith("~"):
            home = with_home(path)
            known = not str(home).startswith("~")
            yield place.error(
                f"mergekit does not expand `~` in `{path}`",
                f"write `{home}`" if known else "write the whole path",
            )
        elif document.kind == PYTORCH:
            yield from _wrong_file(place, path)
        elif path not in document.siblings:
            yield from _wrong_path(document, place, path)
        if model.lora is not None:
            adapters.append(place)
            adapter = Path(model.lora.path)
            if _LOCAL.match(model.lora.path) and not adapter.exists():
                yield _missing(place, model.lora.path, "adapter folder")
            elif adapter.is_dir() and not (adapter / "adapter_config.json").exists():
                yield place.error(
                    f"the folder `{model.lora.path}` has no adapter_config.json",
                    "name the folder of a LoRA adapter after the `+`",
                )
            elif not adapter.exists():
                yield from _nearly_a_folder(place, model.lora.path)
    if adapters:
        yield adapters[0].advice(
            f"`{adapters[0].value}` has to be merged with its adapter first",
            "run mergekit with `--lora-merge-cache DIR`",
        )


def _read_apart(text: object) -> ModelReference | None:
    """The model that a path with `+` or `@` was meant to be, if it is one here."""
    if not isinstance(text, str) or not set("+@") & set(text):
        return None
    splits = [(text, "")] + [
        (text[:i], text[i + 1 :]) for i, letter in enumerate(text) if letter == "+"
    ]
    for path, adapter in splits:
        # A revision belongs to a name on the hub; what is on this machine has none.
        parts = [part for part in (path, adapter) if part]
        if all(Path(part).exists() for part in parts):
            model = ModelReference(
                model=ModelPath.model_validate({"path": path}),
                lora=ModelPath.model_validate({"path": adapter}) if adapter else None,
            )
            return None if as_written(model) == text else model
    several = text.count("+") > 1 or text.count("@") > 1
    if _LOCAL.match(text) and several:
        return ModelReference(model=ModelPath.model_validate({"path": text}))
    return None


def _key(place: Place) -> str:
    """The key of a model, or what begins an entry of a list."""
    name = place.path.rpartition(".")[2]
    return "- model" if name.endswith("]") else name


def _wrong_file(place: Place, path: str) -> Iterator[Finding]:
    if set("+@") & set(path):
        yield place.error(
            f"mergekit-pytorch leaves `{path}` out of the merge in silence, or stops, "
            "because of the `+` or `@` in its path",
            "rename it, or write the path of a link without them",
        )
    elif Path(path).is_dir():
        yield place.error(
            f"`{path}` is a folder, and mergekit-pytorch reads single files",
            "name the file, or use mergekit-yaml",
        )
    elif not Path(path).exists():
        yield _missing(place, path, "file")


def _wrong_path(document: Document, place: Place, path: str) -> Iterator[Finding]:
    if Path(path).is_file():
        yield place.error(f"`{path}` is a file{_WHOLE_FOLDERS}", _NAME_ITS_FOLDER)
    elif Path(path, "config.json").exists():
        return
    elif Path(path, "adapter_config.json").exists():
        yield place.error(
            f"`{place.value}` is a LoRA adapter, not a whole model",
            f"write `base+{place.value}` with the model it was trained on",
        )
    elif Path(path).is_dir():
        yield place.error(
            f"the folder `{place.value}` has no config.json",
            "name a folder as `save_pretrained` writes it",
        )
    elif not _LOCAL.match(path):
        hint = did_you_mean(path, document.siblings) if "/" not in path else ""
        if hint:
            yield place.error(f"`{path}` is none of the merges in this file", hint)
        else:
            yield from _wrong_hub_name(place, path)
    elif (name := Path(path).name) in document.siblings:
        yield place.error(
            f"`{path}` does not exist; mergekit-multi finds other merges by name",
            f"write `{name}`",
        )
    else:
        yield _missing(place, path, "folder")


def _wrong_hub_name(place: Place, path: str) -> Iterator[Finding]:
    try:
        validate_repo_id(path)
        if path.endswith(WEIGHT_FILES):
            message = f"`{path}` looks like a file{_WHOLE_FOLDERS}"
            yield place.error(message, _NAME_ITS_FOLDER)
        else:
            yield from _nearly_a_folder(place, path)
    except HFValidationError:
        fix = "write `owner/name`, or `./folder` for a folder"
        if url := re.match(r"(?:https?://)?(?:hf\.co|huggingface\.co)/(.+)", path):
            fix = f"write `{'/'.join(url[1].split('/')[:2])}`"
        elif path.startswith("model:"):
            fix = f"write `{path.removeprefix('model:')}`"
        yield place.error(
            f"`{path}` is neither a folder here nor a name on the Hugging Face hub", fix
        )


def _nearly_a_folder(place: Place, path: str) -> Iterator[Finding]:
    if (Path(place.file).parent / path / "config.json").exists():
        yield _missing(place, path, "folder")
    elif near := near_paths(path):
        yield place.advice(
            f"`{path}` is taken for a model on the hub",
            f"did you mean the folder {quoted(near, 'or')}?",
        )


def _missing(place: Place, path: str, what: str) -> Finding:
    beside = Path(place.file).parent / path
    if beside.exists() and not Path(path).is_absolute():
        return place.error(
            f"the {what} `{path}` stands beside the recipe, but mergekit looks for it "
            "in the folder where it runs",
            f"write `{beside.resolve()}` or run mergekit there",
        )
    near = near_paths(path, files=what == "file")
    return place.error(
        f"the {what} `{path}` does not exist",
        f"did you mean {quoted(near, 'or')}?"
        if near
        else "mend the path, or the folder it is in",
    )
