"""Python's collector of cyclic garbage, set for a process that holds much and makes little of it."""

from __future__ import annotations

import gc
from typing import Final

# So many more objects than were freed since; 700 unless one says otherwise.
_YOUNG_MAX: Final = 20_000


def settle() -> None:
    """What is there now stays: it is not looked through again, and what comes after less often.

    A commit makes thousands of objects that live until it ends, and a cycle hardly ever.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG_MAX, 20, 20)
    gc.enable()
