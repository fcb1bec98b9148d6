"""The C compiler that tests of C use."""

from __future__ import annotations

import os
import shutil

import pytest


def compiler() -> str:
    """Its path; without one the test is skipped."""
    found = shutil.which(os.environ.get("CC", "cc").split()[0])
    if found is None:
        pytest.skip("needs a C compiler")
    return found
