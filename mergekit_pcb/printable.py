"""Text of others, such as the names of models and tensors, as it may be printed."""

from __future__ import annotations


def printable(text: object) -> str:
    r"""One line in which nothing steers a terminal or breaks a table.

    Control characters, line breaks, marks that turn the direction of writing round
    and bytes that are no text become escapes like ``\x1b``.

    Example:
        >>> printable("a\nb")
        'a\\nb'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
