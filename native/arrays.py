"""Checks of the arrays a binding takes, before a pointer into them reaches C."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def require(
    array: object, name: str, dtype: npt.DTypeLike, shape: tuple[int | None, ...]
) -> npt.NDArray[np.generic]:
    """Return `array` unchanged if it is a C-contiguous, aligned ndarray of `dtype` and `shape` (None: any extent).

    Raises ValueError that names the argument, what is expected and what was given. Nothing is ever converted: a
    silent copy would hide the cost, and a cast could change what is verified.
    """
    wanted = np.dtype(dtype)
    given: str
    if type(array) is not np.ndarray:  # a subclass may say what it likes of its shape
        given = type(array).__name__
    elif array.dtype != wanted:
        given = f"dtype {array.dtype}"
    elif array.ndim != len(shape) or any(
        want is not None and want != have for want, have in zip(shape, array.shape, strict=True)
    ):
        given = f"shape {array.shape}"
    elif not array.flags.c_contiguous:
        given = "an array that is not C-contiguous"
    elif not array.flags.aligned:
        given = "an array that is not aligned"
    else:
        return array
    extents = ", ".join("any" if extent is None else str(extent) for extent in shape)
    comma = "," if len(shape) == 1 else ""
    raise ValueError(
        f"{name}: expected a C-contiguous {wanted} array of shape ({extents}{comma}), got {given}"
    )


def exact_bytes(value: object, name: str, size: int) -> bytes:
    """Return `value` if it is bytes of exactly `size`; otherwise ValueError that names the argument."""
    if not isinstance(value, bytes):
        raise ValueError(f"{name}: expected {size} bytes, got {type(value).__name__}")
    if len(value) != size:
        raise ValueError(f"{name}: expected {size} bytes, got {len(value)}")
    return value
