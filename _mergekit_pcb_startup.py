"""Run by ``mergekit_pcb.pth`` and ``mergekit_pcb.start`` whenever Python starts.

It stands beside the package, not in it, because importing the package already
installs the hook, and the opt-out has to be read before that. Every Python process
of the environment pays for this file, so it imports only what is loaded anyway.
"""

import os
import sys

started = False


def start() -> None:
    """Install the hook unless ``MERGEKIT_PCB_AUTOLOAD=0``; never raises."""
    global started
    # Virtual environments process their .pth files twice.
    if started or os.environ.get("MERGEKIT_PCB_AUTOLOAD") == "0":
        return
    started = True
    try:
        import mergekit_pcb  # noqa: F401  (importing it is the installation)
    except Exception as error:
        # A broken plug-in must not break every Python process of the environment.
        if sys.stderr is not None:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(
                f"mergekit-pcb: the start-up file failed ({reason}); "
                "reinstall mergekit-pcb, or set MERGEKIT_PCB_AUTOLOAD=0",
                file=sys.stderr,
            )
