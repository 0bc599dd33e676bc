"""Whether mergekit has taken the method."""

from __future__ import annotations

from mergekit import merge_methods

from mergekit_pcb.errors import PCBError


def require_pcb() -> None:
    """Refuse to begin what would fail at its first merge.

    Raises:
        PCBError: mergekit does not know the method `pcb`. Importing this package has
            registered it, or said why it could not.
    """
    if "pcb" not in {m.spec.name for m in merge_methods.registered_methods()}:
        raise PCBError(
            "mergekit did not take the method `pcb`: run `mergekit-pcb doctor`"
        )
