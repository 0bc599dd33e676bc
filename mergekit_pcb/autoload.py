"""Act on mergekit's modules as soon as they have been imported.

The start-up file loads this in every Python process of the environment, so it imports
only what the interpreter has loaded; the rest follows when a watched module appears.
"""

from __future__ import annotations

import _thread
import sys

TYPE_CHECKING = False  # typing is too heavy to import here; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


def _register_method(merge_methods: Any, method: Any) -> None:
    pcb = method.PCB
    for known in merge_methods.registered_methods():
        if known is pcb:
            return
        if known.spec.name == pcb.spec.name:
            _warn_once(f"mergekit already has a method {pcb.spec.name!r}, which stays")
            return
    merge_methods.register(pcb)


def _wrap_genome(genome: Any, genome_patch: Any) -> None:
    genome_patch.wrap_genome(genome)


def _wrap_planner(plan: Any, planner_patch: Any) -> None:
    planner_patch.wrap_planner(plan)


def _wrap_raw_planner(merge_raw_pytorch: Any, planner_patch: Any) -> None:
    planner_patch.wrap_raw_planner(merge_raw_pytorch)


def _wrap_loaders(lazy_tensor_loader: Any, loader_patch: Any) -> None:
    loader_patch.wrap_loaders(lazy_tensor_loader)


# Watched module -> (our module that is needed, action on the two). A watched module may
# be executed again (importlib.reload), so actions must be idempotent. Our module must
# not import, at its top, a module whose import is still going on when the watched one
# completes: `mergekit.plan` imports `mergekit.merge_methods`, so `plugin.method` cannot
# import `mergekit.plan`.
HOOKS: dict[str, tuple[str, Callable[[ModuleType, ModuleType], None]]] = {
    "mergekit.merge_methods": ("mergekit_pcb.plugin.method", _register_method),
    "mergekit.evo.genome": ("mergekit_pcb.plugin.genome_patch", _wrap_genome),
    "mergekit.io.lazy_tensor_loader": (
        "mergekit_pcb.plugin.loader_patch",
        _wrap_loaders,
    ),
    "mergekit.plan": ("mergekit_pcb.plugin.planner_patch", _wrap_planner),
    "mergekit.scripts.merge_raw_pytorch": (
        "mergekit_pcb.plugin.planner_patch",
        _wrap_raw_planner,
    ),
}

_OURS = __name__.partition(".")[0] + "."
_executing: set[str] = set()
_pending: set[str] = set()
_warned: list[str] = []
_at_work = _thread.allocate_lock()


def install() -> None:
    """Act on watched modules imported already, and watch for the others.

    Does nothing the second time. Raises nothing: what goes wrong is one line on
    standard error.
    """
    # By name, because a package that is imported afresh brings a new class.
    if not any(type(finder).__module__ == __name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name in HOOKS:
        module = sys.modules.get(name)
        # A half-imported mergekit is importing us (by the entry point, say), and will
        # register the method itself.
        if module and not getattr(module.__spec__, "_initializing", False):
            _pending.add(name)
    _act_on_pending()


def _act_on_pending() -> None:
    # Our modules import mergekit, so its modules complete while ours are half
    # imported and unusable; the outermost of ours then calls here again. A thread that
    # finds another at work leaves the rest to it: waiting, while it holds the lock of
    # the module it has imported, could be for ever.
    while _pending and not _importing_ours() and _at_work.acquire(blocking=False):
        try:
            _act()
        finally:
            _at_work.release()


def _importing_ours() -> bool:
    # A copy, because other threads change the set.
    return any(name.startswith(_OURS) for name in tuple(_executing))


def _act() -> None:
    while _pending and not _importing_ours():
        name = _pending.pop()
        needed, act = HOOKS[name]
        try:
            __import__(needed)
            act(sys.modules[name], sys.modules[needed])
        except Exception as error:
            _warn_once(
                f"cannot offer `merge_method: pcb` ({type(error).__name__}: {error}); "
                "run `mergekit-pcb doctor`"
            )


def _warn_once(message: str) -> None:
    # Several modules fail for the same reason, so one line is enough. Not
    # warnings.warn, which prints two and which -W turns into an exception.
    if not _warned and sys.stderr is not None:
        message = " ".join(message.split())
        print(f"mergekit-pcb: {message}", file=sys.stderr)
        _warned.append(message)


class _Finder:
    """Lets the finders behind it find a watched module, then wraps its loader."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname not in HOOKS and not fullname.startswith(_OURS):
            return None
        finders = iter(sys.meta_path)
        # Finders before this one found nothing, and asking them again could recurse.
        for finder in finders:
            if finder is self:
                break
        for finder in finders:
            find_spec = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find_spec and find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """The module's own loader, followed by the actions on the module."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        # copy and pickle look for special names before there are any attributes.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        # Restored, because other code looks at the type of a module's loader.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        name = module.__name__
        _executing.add(name)
        try:
            self._loader.exec_module(module)
            if name in HOOKS:
                _pending.add(name)
        finally:
            _executing.discard(name)
            _act_on_pending()
