"""Where output must not go."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.places import require_apart, require_room


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("models/tuned", "is a model of the recipe"),
        ("models/base/../tuned/", "is a model of the recipe"),
        ("link", "is a model of the recipe"),
        ("models/tuned/new/merged", "lies in the model models/tuned"),
        ("models", "holds the model models/tuned"),
        (".", "holds the model models/tuned"),
    ],
)
def test_output_that_shares_files_with_an_input(
    out: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is written."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "tuned"):
        (tmp_path / "models" / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("models/tuned")
    with pytest.raises(PCBError, match=said) as caught:
        require_apart(Path(out), [Path("org/on-the-hub"), Path("models/tuned")])
    assert caught.value.message.endswith(": choose another output folder")


def test_output_beside_the_inputs(tmp_path: Path) -> None:
    """A name that begins alike, and a model that is not on this machine, are fine."""
    (tmp_path / "base").mkdir()
    models = [tmp_path / "base", tmp_path / "absent"]
    for out in ("base2", "merged/base", "absent"):
        require_apart(tmp_path / out, models)


def test_room(tmp_path: Path) -> None:
    """Both sizes are said, in units that fit."""
    require_room(tmp_path / "new" / "folder", 10, "the files of the report")
    with pytest.raises(PCBError, match="report need about 1000000 TB: make room"):
        require_room(tmp_path / "new", 1e18, "the files of the report")
