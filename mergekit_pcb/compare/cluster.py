"""Jobs on several machines or processes by Ray (the extra ``[ray]``).

The work itself is that of one process: a job is a function of picklable arguments that
returns its result. Whoever asks for jobs keeps the results, so that what comes after
them finds everything done.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from mergekit_pcb.errors import PCBError

HERE = "local"
"""The address that means: a Ray of this machine's own, for as long as it is needed."""

# How often a job runs again whose worker was lost.
_RETRIES = 3
# A worker's libraries take this much memory besides the models.
_LIBRARIES = 1_000_000_000

Job = TypeVar("Job")
Done = TypeVar("Done")


@dataclass(frozen=True)
class Ray:
    """Where jobs run, and what each of them needs.

    Attributes:
        address: of a Ray that is running, such as ``auto``; or `HERE`.
        gpus: for each job; a fraction lets several jobs share one.
        memory: bytes for each job, which bounds how many run on a machine.
    """

    address: str = HERE
    gpus: float = 0
    memory: float = 0


@dataclass(frozen=True)
class Cluster:
    """A Ray that is connected.

    Attributes:
        ray: the library.
        settings: what each job needs.
    """

    ray: Any
    settings: Ray

    def run(
        self, function: Callable[[Any, Job], Done], common: Any, jobs: Sequence[Job]
    ) -> Generator[tuple[int, Done | Exception], None, None]:
        """Run a function once for each job, in any order.

        A job whose worker is lost runs again. What is not done when the iterator is
        closed, or the program is interrupted, is cancelled.

        Args:
            function: of the common argument and a job; must be importable.
            common: what all jobs share, of any kind that cloudpickle takes. Workers
                give the function the same object for all jobs.
            jobs: the others, picklable.

        Yields:
            The number of a job, and what came of it: an exception if Ray gave it up.
        """
        ray = self.ray
        shared = ray.put((str(Path.cwd()), sys.path, ray.cloudpickle.dumps(common)))
        remote = ray.remote(
            num_cpus=1,
            num_gpus=self.settings.gpus,
            memory=self._memory() or None,
            max_retries=_RETRIES,
        )(_in_worker)
        waiting = {
            remote.remote(shared, ray.cloudpickle.dumps(function), job): number
            for number, job in enumerate(jobs)
        }
        try:
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                number = waiting.pop(done)
                try:
                    yield number, ray.get(done)
                except ray.exceptions.RayError as error:
                    yield number, error
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)

    @property
    def jobs_at_a_time(self) -> int:
        """How many jobs may run at once on all machines together, at least one."""
        wanted = {"CPU": 1, "GPU": self.settings.gpus, "memory": self._memory()}
        total = sum(
            min(
                int(has.get(name, 0) // wants)
                for name, wants in wanted.items()
                if wants
            )
            for has in _machines(self.ray)
        )
        return max(total, 1)

    def _memory(self) -> int:
        """What a job asks for: no more than a machine has, or it would wait forever."""
        most = max((has.get("memory", 0) for has in _machines(self.ray)), default=0)
        wanted = self.settings.memory
        return int(min(wanted + _LIBRARIES, most)) if wanted else 0


def _machines(ray: Any) -> list[dict[str, float]]:
    """The resources of each machine."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _in_worker(shared: tuple[str, list[str], bytes], function: bytes, job: Any) -> Any:
    """What a worker runs: as in the program's own folder, if it has that."""
    here, path, common = shared
    if Path(here).is_dir():
        os.chdir(here)
    sys.path += [place for place in path if place not in sys.path]
    from ray import cloudpickle

    return cloudpickle.loads(function)(_loaded(common), job)


# Of a worker that serves one comparison after the other, the last one is enough.
@lru_cache(maxsize=1)
def _loaded(common: bytes) -> Any:
    from ray import cloudpickle

    return cloudpickle.loads(common)


def worker_folder(parent: Path) -> Path:
    """A folder of this process alone, on a disk that several machines share."""
    folder = parent / f"worker-{socket.gethostname()}-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    return folder


def require_ray() -> Any:
    """The library.

    Raises:
        PCBError: it is not installed.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        import ray
    except ImportError as error:
        raise PCBError(
            "--ray needs the library Ray: pip install 'mergekit-pcb[ray]'"
        ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray puts its own there, which would end the program without tidying up.
        signal.signal(signal.SIGTERM, before)
    return ray


@contextmanager
def cluster(settings: Ray) -> Iterator[Cluster]:
    """Connect to Ray, and free it at the end.

    A Ray to which this process is connected already is used and left as it is.

    Raises:
        PCBError: there is no Ray at the address, or none can be started here.
    """
    ray = require_ray()
    ours = not ray.is_initialized()
    if ours:
        before = signal.getsignal(signal.SIGTERM)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if settings.address == HERE:
            options["include_dashboard"] = False
        try:
            ray.init(address=settings.address, **options)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            where = f"at {settings.address}" if settings.address != HERE else "here"
            reason = " ".join(str(error).split()) or type(error).__name__
            raise PCBError(f"no Ray {where}: {reason}") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    try:
        most = max((m.get("GPU", 0) for m in _machines(ray)), default=0)
        if settings.gpus > most:
            raise PCBError(
                f"--gpus-per-job {settings.gpus:g}: no machine of this Ray has more "
                f"than {most:g} GPUs, so no job could ever begin"
            )
        yield Cluster(ray, settings)
    finally:
        if ours:
            ray.shutdown()
