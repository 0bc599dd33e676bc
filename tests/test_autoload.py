"""The start-up hook, in fresh interpreters.

Most tests run in a small virtual environment that holds the real start-up files and
hook beside a mergekit and a method of a few lines, so that each takes milliseconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import mergekit_pcb

PACKAGE = Path(mergekit_pcb.__file__).parent
ROOT = PACKAGE.parent
STARTUP_FILES = ("mergekit_pcb.pth", "mergekit_pcb.start", "_mergekit_pcb_startup.py")

REGISTRY = """
_METHODS = {}

def register(method):
    if method.spec.name in _METHODS:
        raise ValueError("already registered")
    _METHODS[method.spec.name] = method

def get(name):
    try:
        return _METHODS[name]
    except KeyError:
        raise RuntimeError(f"Unimplemented merge method {name}") from None

def registered_methods():
    return tuple(_METHODS.values())
"""
TAKEN = """
from types import SimpleNamespace
register(SimpleNamespace(spec=SimpleNamespace(name="pcb"), theirs=True))
"""
READS_ENTRY_POINTS = """
from importlib import import_module
register(import_module("mergekit_pcb.plugin.method").PCB)
"""
MERGEKIT = {
    "mergekit/__init__.py": "",
    "mergekit/merge_methods/__init__.py": REGISTRY,
    "mergekit/evo/__init__.py": "",
    "mergekit/evo/genome.py": (
        "METHOD_PARAM_MAPS = {'ties': ['weight', 'density']}\n"
        "class ModelGenome:\n"
        "    def genotype_merge_config(self): pass\n"
    ),
}
# Both import mergekit at their top, as the real ones do.
OURS = {
    "mergekit_pcb/plugin/__init__.py": "",
    "mergekit_pcb/plugin/model_scope.py": "import mergekit.merge_methods\n",
    "mergekit_pcb/plugin/genome_patch.py": (
        (PACKAGE / "plugin" / "genome_patch.py").read_text()
    ),
    "mergekit_pcb/plugin/method.py": (
        "from types import SimpleNamespace\n"
        "import mergekit.merge_methods\n"
        "import mergekit_pcb.plugin.model_scope\n"
        "PCB = SimpleNamespace(spec=SimpleNamespace(name='pcb'), theirs=False)\n"
    ),
}
ASK = "from mergekit import merge_methods as m; print(m.get('pcb').theirs)"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


class Environment:
    """A virtual environment, and how to run its interpreter."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=os.name != "nt")
        scripts = "Scripts" if os.name == "nt" else "bin"
        self.python = folder / scripts / Path(sys.executable).name
        (self.site,) = (p for p in folder.rglob("site-packages") if p.parent.is_dir())

    def run(
        self, code: str, *flags: str, path: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MERGEKIT_")}
        kept["PYTHONPATH"] = str(path or "")
        return subprocess.run(
            [str(self.python), *flags, *(["-c", code] if code else [])],
            capture_output=True,
            text=True,
            env=kept | variables,
            cwd=self.site.anchor,
            check=False,
        )

    def says(self, code: str, *flags: str, path: Path | None = None, **v: str) -> str:
        """Run code that must succeed in silence, and return what it printed."""
        result = self.run(code, *flags, path=path, **v)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout.strip()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """As installed, with a mergekit and a method that take no time to import."""
    made = Environment(tmp_path_factory.mktemp("venv"))
    for name in STARTUP_FILES:
        shutil.copy(ROOT / name, made.site)
    (made.site / "mergekit_pcb").mkdir()
    for name in ("__init__.py", "autoload.py"):
        shutil.copy(PACKAGE / name, made.site / "mergekit_pcb")
    write(made.site, MERGEKIT | OURS)
    return made


def test_registers_when_mergekit_is_imported(environment: Environment) -> None:
    """An unmodified process finds pcb without importing this package."""
    assert environment.says(ASK) == "False"


def test_adds_almost_nothing_to_other_processes(environment: Environment) -> None:
    """Python starts with our two light modules more, and nothing they drag in."""
    code = "import sys; print(*sorted(sys.modules))"
    without = environment.says(code, MERGEKIT_PCB_AUTOLOAD="0").split()
    added = set(environment.says(code).split()) - set(without)
    assert "_mergekit_pcb_startup" in without
    assert "mergekit_pcb" not in without
    assert added == {"mergekit_pcb", "mergekit_pcb.autoload", "__future__"}


def test_the_opt_out_leaves_mergekit_alone(environment: Environment) -> None:
    """MERGEKIT_PCB_AUTOLOAD=0 means that nobody registers pcb."""
    result = environment.run(ASK, MERGEKIT_PCB_AUTOLOAD="0")
    assert "Unimplemented merge method pcb" in result.stderr


@pytest.mark.parametrize("flags", [[], ["-S"]])
@pytest.mark.parametrize(
    "order",
    [
        "import mergekit_pcb, mergekit.merge_methods",
        "import mergekit.merge_methods, mergekit_pcb",
        "import mergekit_pcb.plugin.method",
        "import mergekit_pcb.plugin.model_scope",
        "import mergekit.merge_methods, mergekit_pcb.plugin.method",
    ],
)
@pytest.mark.parametrize("opt_out", ["0", "1"])
def test_an_explicit_import_registers(
    environment: Environment, order: str, flags: list[str], opt_out: str
) -> None:
    """Importing this package offers pcb in any order, opt-out and -S or not."""
    said = environment.says(
        f"{order}; {ASK}",
        *flags,
        path=environment.site,
        MERGEKIT_PCB_AUTOLOAD=opt_out,
    )
    assert said == "False"


def test_minus_s_disables_the_hook(environment: Environment) -> None:
    """Python -S runs no start-up files, hence no hook."""
    result = environment.run(ASK, "-S", path=environment.site)
    assert "Unimplemented merge method pcb" in result.stderr


def test_a_second_start_changes_nothing(environment: Environment) -> None:
    """Start-up files run twice in a virtual environment: one finder, no message."""
    again = (
        "import sys, _mergekit_pcb_startup as s, mergekit_pcb\n"
        "for _ in range(2):\n"
        "    s.start(); s.started = False; s.start(); mergekit_pcb.autoload.install()\n"
        f"    {ASK}\n"
        "print(sum('mergekit_pcb' in type(f).__module__ for f in sys.meta_path))"
    )
    assert environment.says(again).split() == ["False", "False", "1"]


def test_a_package_imported_afresh_adds_no_second_finder(
    environment: Environment,
) -> None:
    """Throwing our modules out of sys.modules does not stack finders up."""
    code = (
        "import sys\n"
        "for name in [n for n in sys.modules if n.startswith('mergekit_pcb')]:\n"
        "    del sys.modules[name]\n"
        "import mergekit_pcb\n"
        "print(sum('mergekit_pcb' in type(f).__module__ for f in sys.meta_path))\n"
        f"{ASK}"
    )
    assert environment.says(code).split() == ["1", "False"]


def test_mergekit_imported_afresh_is_registered_with_again(
    environment: Environment,
) -> None:
    """A new mergekit, by reload or by a cleared sys.modules, gets pcb as well."""
    code = (
        "import importlib, sys, mergekit.merge_methods as m\n"
        "importlib.reload(m); print(m.get('pcb').theirs)\n"
        "del sys.modules['mergekit.merge_methods'], sys.modules['mergekit']\n"
        f"{ASK}"
    )
    assert environment.says(code).split() == ["False", "False"]


def test_evolve_knows_the_parameters(environment: Environment) -> None:
    """mergekit-evolve's table gets pcb, weight first, and keeps its own entries."""
    code = "from mergekit.evo.genome import METHOD_PARAM_MAPS as m; print(m)"
    assert eval(environment.says(code)) == {
        "ties": ["weight", "density"],
        "pcb": ["weight", "density"],
    }


def test_a_taken_name_stays_theirs(environment: Environment, tmp_path: Path) -> None:
    """If mergekit offers pcb itself, its own stays and one line says so."""
    name = "mergekit/merge_methods/__init__.py"
    path = write(tmp_path, MERGEKIT | {name: REGISTRY + TAKEN})
    code = f"{ASK}; import importlib, mergekit_pcb.plugin.method; importlib.reload(m)"
    result = environment.run(code, path=path)
    assert result.stdout.strip() == "True"
    assert result.stderr == (
        "mergekit-pcb: mergekit already has a method 'pcb', which stays\n"
    )


@pytest.mark.parametrize("opt_out", ["0", "1"])
def test_a_mergekit_that_reads_entry_points_needs_no_hook(
    environment: Environment, tmp_path: Path, opt_out: str
) -> None:
    """When mergekit loads our entry point itself, the hook stays out of the way."""
    name = "mergekit/merge_methods/__init__.py"
    path = write(tmp_path, MERGEKIT | {name: REGISTRY + READS_ENTRY_POINTS})
    said = environment.says(ASK, path=path, MERGEKIT_PCB_AUTOLOAD=opt_out)
    assert said == "False"


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("mergekit/merge_methods/__init__.py", "get = registered = None"),
        (
            "mergekit/merge_methods/__init__.py",
            REGISTRY + "def register(method, kind): pass",
        ),
        ("mergekit_pcb/plugin/method.py", "from mergekit.merge_methods import gone"),
        ("mergekit_pcb/plugin/method.py", "raise OSError('two\\nlines')"),
        ("mergekit_pcb/plugin/method.py", ""),
    ],
)
def test_a_changed_mergekit_gives_one_warning(
    environment: Environment, tmp_path: Path, module: str, text: str
) -> None:
    """What fails in registering is one line on standard error, never an exception."""
    plugin = {"mergekit_pcb/plugin/__init__.py": ""}
    path = write(tmp_path, MERGEKIT | plugin | {module: text})
    code = (
        f"import mergekit_pcb; mergekit_pcb.__path__.insert(0, {str(path)!r} + "
        "'/mergekit_pcb'); import mergekit.merge_methods; import mergekit.evo.genome"
    )
    result = environment.run(code, "-W", "error", path=path)
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("mergekit-pcb: cannot offer `merge_method: pcb` (")
    assert line.endswith("; run `mergekit-pcb doctor`")


def test_an_error_in_mergekit_itself_passes_unchanged(
    environment: Environment, tmp_path: Path
) -> None:
    """A mergekit that cannot be imported fails as it does without us."""
    broken = {"mergekit/merge_methods/__init__.py": "import no_such_module"}
    path = write(tmp_path, MERGEKIT | broken)
    code = (
        "try:\n    import mergekit.merge_methods\n"
        "except ModuleNotFoundError as error:\n    print(error.name)"
    )
    assert environment.says(code, path=path) == "no_such_module"


@pytest.mark.parametrize("text", ["raise OSError('two\\nlines')", "import no_such"])
def test_a_broken_package_does_not_break_python(
    environment: Environment, tmp_path: Path, text: str
) -> None:
    """If this package itself cannot be imported, Python starts with one line."""
    path = write(tmp_path, {"mergekit_pcb/__init__.py": text})
    result = environment.run("print(1)", path=path)
    assert (result.returncode, result.stdout.strip()) == (0, "1")
    (line,) = result.stderr.splitlines()
    assert line.startswith("mergekit-pcb: the start-up file failed (")


def test_the_watched_module_keeps_its_own_loader(environment: Environment) -> None:
    """inspect, pkgutil, pickle and importlib.resources see nothing of the detour."""
    code = (
        "import copy, importlib.util, inspect, pickle, pkgutil\n"
        "from importlib.machinery import SourceFileLoader\n"
        "spec = importlib.util.find_spec('mergekit.merge_methods')\n"
        "assert 'def register' in spec.loader.get_source(spec.name)\n"
        "assert copy.copy(spec.loader).get_code(spec.name)\n"
        "assert pickle.loads(pickle.dumps(spec.loader)).is_package(spec.name)\n"
        "import mergekit.merge_methods as m\n"
        "assert type(m.__loader__) is type(m.__spec__.loader) is SourceFileLoader\n"
        "assert m.__loader__ is m.__spec__.loader\n"
        "assert 'def register' in inspect.getsource(m)\n"
        "from importlib.resources import files\n"
        "assert files(m).joinpath('__init__.py').is_file()\n"
        "import mergekit\n"
        "found = [i.name for i in pkgutil.iter_modules(mergekit.__path__)]\n"
        "assert found == ['evo', 'merge_methods'], found\n"
        "print('fine')"
    )
    assert environment.says(code) == "fine"


def test_a_watched_module_can_be_run_as_a_script(environment: Environment) -> None:
    """`python -m` finds the code of a module that the hook watches."""
    assert environment.says("", "-m", "mergekit.evo.genome") == ""


def test_works_beside_other_import_hooks(environment: Environment) -> None:
    """A finder in front that asks all finders, and a bare one, do no harm."""
    code = (
        "import sys, importlib.util\n"
        "class Chained:\n"
        "    busy = False\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if self.busy or not name.startswith('mergekit'):\n"
        "            return None\n"
        "        self.busy = True\n"
        "        try:\n"
        "            return importlib.util.find_spec(name)\n"
        "        finally:\n"
        "            self.busy = False\n"
        "class Bare:\n"
        "    pass\n"
        "for place in (0, 2, len(sys.meta_path)):\n"
        "    sys.meta_path.insert(place, Chained())\n"
        f"{ASK}"
    )
    assert environment.says(code) == "False"


def test_works_for_a_mergekit_in_a_zip(
    environment: Environment, tmp_path: Path
) -> None:
    """The loader of a zip file, which its modules share, is wrapped like any other."""
    with zipfile.ZipFile(tmp_path / "mergekit.zip", "w") as archive:
        for name, text in MERGEKIT.items():
            archive.writestr(name, text)
    code = f"{ASK}; print(m.__file__)"
    said = environment.says(code, path=tmp_path / "mergekit.zip")
    assert said.startswith("False")
    assert "mergekit.zip" in said


def test_threads_that_import_at_once_get_one_registration(
    environment: Environment,
) -> None:
    """Threads that import mergekit's modules find pcb there once, in silence.

    Not our own modules: theirs import ours and ours import theirs, a circle that
    Python's import locks do not allow two threads to enter from both ends.
    """
    code = (
        "import importlib, sys, threading\n"
        "names = ['mergekit.merge_methods', 'mergekit.evo.genome',\n"
        "         'mergekit_pcb', 'mergekit'] * 4\n"
        "sys.setswitchinterval(1e-6)\n"
        "go = threading.Barrier(len(names))\n"
        "def run(name):\n"
        "    go.wait(); importlib.import_module(name)\n"
        "threads = [threading.Thread(target=run, args=[n]) for n in names]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        f"{ASK}"
    )
    for _ in range(5):
        assert environment.says(code) == "False"


def test_the_start_file_names_what_the_pth_file_runs() -> None:
    """Both start-up files, of old Pythons and of new ones, call the same function."""
    module, function = (ROOT / "mergekit_pcb.start").read_text().strip().split(":")
    (line,) = (ROOT / "mergekit_pcb.pth").read_text().splitlines()
    assert line == f"import {module}; {module}.{function}()"


def test_the_entry_point_is_declared() -> None:
    """The installed metadata offers pcb to a mergekit that reads entry points."""
    (found,) = metadata.entry_points(group="mergekit.merge_methods")
    assert (found.name, found.value) == ("pcb", "mergekit_pcb.plugin.method:PCB")


def test_the_installed_hook_registers_with_the_real_mergekit() -> None:
    """In this very environment, plain mergekit code finds pcb in both its tables."""
    code = (
        "from mergekit import merge_methods\n"
        "from mergekit.evo.genome import METHOD_PARAM_MAPS\n"
        "print(type(merge_methods.get('pcb')).__module__, METHOD_PARAM_MAPS['pcb'])"
    )
    kept = {k: v for k, v in os.environ.items() if k != "MERGEKIT_PCB_AUTOLOAD"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=kept,
        check=True,
    )
    assert result.stdout.strip() == "mergekit_pcb.plugin.method ['weight', 'density']"
    assert "mergekit-pcb:" not in result.stderr
