"""Errors that say what was given, what would have been accepted, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HVAEError(ValueError):
    """Base of every error raised on purpose by pyro_hvae. The command line prints its message without a traceback."""


def unknown(kind: str, given: object, known: Iterable[str], hint: str = "") -> HVAEError:
    """Error for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(str(given).lower(), [k.lower() for k in known], n=1, cutoff=0.5)
    nearest = next((k for k in known if near and k.lower() == near[0]), None)
    message = f"unknown {kind} {given!r}"
    message += f"; did you mean {nearest!r}?" if nearest else "."
    message += f" Known: {', '.join(known)}."
    return HVAEError(message + (f" {hint}" if hint else ""))
