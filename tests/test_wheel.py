"""The wheel: what is in it, and that installing it is all there is to do."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import mergekit_pcb

ROOT = Path(mergekit_pcb.__file__).parents[1]
STARTUP_FILES = {"mergekit_pcb.pth", "mergekit_pcb.start", "_mergekit_pcb_startup.py"}
ASK = "from mergekit import merge_methods; merge_methods.get('pcb')"


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {
        k: v
        for k, v in os.environ.items()
        if k not in ("MERGEKIT_PCB_AUTOLOAD", "PYTHONPATH")
    }
    return subprocess.run(
        command, capture_output=True, text=True, env=kept | variables, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = (
        "import sys; from hatchling.builders.wheel import WheelBuilder; "
        "list(WheelBuilder(sys.argv[1]).build(directory=sys.argv[2], "
        "versions=['standard']))"
    )
    result = run(sys.executable, "-c", build, ROOT, folder)
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_start_up_files_are_at_the_root(wheel: Path) -> None:
    """Python looks for them nowhere else."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name for name in names if "/" not in name} == STARTUP_FILES
    tops = {name.split("/")[0] for name in names} - STARTUP_FILES
    assert tops == {
        "mergekit_pcb",
        f"mergekit_pcb-{mergekit_pcb.__version__}.dist-info",
    }
    assert "mergekit_pcb/py.typed" in names
    assert not any(name.endswith(".pyc") for name in names)


def test_the_wheel_has_every_module(wheel: Path) -> None:
    """No file of the package is forgotten."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "mergekit_pcb"
    modules = {p.relative_to(ROOT).as_posix() for p in package.rglob("*.py")}
    assert modules <= names


@pytest.mark.slow
def test_an_installed_wheel_needs_no_set_up(wheel: Path, tmp_path: Path) -> None:
    """Installed beside mergekit it just works, can be refused, and leaves nothing."""
    venv.create(tmp_path / "venv", symlinks=os.name != "nt")
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / Path(sys.executable).name
    (site,) = (tmp_path / "venv").rglob("site-packages")
    # mergekit and torch come from here. A path line makes their folder importable
    # without running the start-up files in it.
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python)

    installed = run(*pip, "install", "--no-deps", "--no-index", wheel)
    assert installed.returncode == 0, installed.stderr
    where = run(python, "-c", "import mergekit_pcb as m; print(m.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(site)

    accepted = run(python, "-c", ASK)
    assert (accepted.returncode, accepted.stderr) == (0, "")
    for refused in (
        run(python, "-c", ASK, MERGEKIT_PCB_AUTOLOAD="0"),
        run(
            python,
            "-S",
            "-c",
            f"import sys; sys.path += {[str(site), sysconfig.get_path('purelib')]}; "
            + ASK,
        ),
    ):
        assert "Unimplemented merge method pcb" in refused.stderr
    doctor = run(scripts / "mergekit-pcb", "doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert f"{site / 'mergekit_pcb.pth'} (active)" in doctor.stdout

    removed = run(*pip, "uninstall", "--yes", "mergekit-pcb")
    assert removed.returncode == 0, removed.stderr
    assert not any((site / name).exists() for name in STARTUP_FILES)
