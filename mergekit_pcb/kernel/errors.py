"""What stops a merge: numbers that are not finite."""

from __future__ import annotations


class NotFiniteError(ValueError):
    """A task vector holds NaN or infinity."""


class OverflowedError(ValueError):
    """A merged tensor holds NaN or infinity, although all inputs are finite."""
