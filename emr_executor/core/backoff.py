"""How long to pause before what failed is tried again: doubled with each failure, up to a longest pause."""

from __future__ import annotations

_DOUBLINGS = 16
"""More would leave the range of any pause here, and at last that of a float."""


def doubled_s(first_s: float, longest_s: float, *, failures: int) -> float:
    """Seconds to pause after so many failures in a row, 1 or more (fewer count as 1)."""
    return min(longest_s, first_s * 2.0 ** min(max(failures - 1, 0), _DOUBLINGS))
