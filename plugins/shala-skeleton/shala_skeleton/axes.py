"""The order of an array's axes: frames T, bodies M, joints V and coordinates C, as in the field's literature."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from shala_framework.plugin import DataError

STORED = ("TVC", "TMVC")
"""The orders that this modality writes."""
ORDERS = (*STORED, "CTV", "TCV", "CTVM", "MTVC", "TVCM", "MCTV", "CTMV")
"""The orders that "auto" recognises."""
MOST_BODIES = 16
FEW_BODIES = 4  # there may be more bodies than frames up to this number
MOST_COORDINATES = 16  # of stored orders; a joint in NTU's files has 12 values


def known_axes(_: Any, __: Any, value: str) -> None:
    """Validator: accept "auto" and every order of T, V, C and of T, M, V, C."""
    if value != "auto" and sorted(value) not in (sorted("TVC"), sorted("TMVC")):
        raise ValueError(
            f'expected "auto", or an order of the letters T (frames), V (joints), C (coordinates) and, with bodies, M, '
            f'such as "CTVM", got {value!r}'
        )


def to_frames_first(array: np.ndarray, joints: int, axes: str, field: str, dims: int = 1) -> np.ndarray:
    """Return the array as [T, P, J, C], for any order of its axes.

    Args:
        array: The stored array.
        joints: Number of joints of a body.
        axes: Order of the axes, or "auto" to recognise it.
        field: Name of its field, for error messages.
        dims: Number of wanted coordinates; resolves shapes that would fit several orders.

    Raises:
        DataError: No order fits the shape, or several are equally likely.
    """
    if axes == "auto":
        axes = _recognise(array.shape, joints, field, dims)
    elif len(axes) != array.ndim or 0 in array.shape or array.shape[axes.index("V")] != joints:
        raise DataError(
            f"field {field!r}: expected an array {_described(axes)} with {joints} joints, as the options `axes` and "
            f"`joints` say, got shape {list(array.shape)}"
        )
    moved = array.transpose([axes.index(letter) for letter in "TMVC" if letter in axes])
    return moved if "M" in axes else moved[:, None]


def _recognise(shape: Sequence[int], joints: int, field: str, dims: int) -> str:
    """Return the one order that fits a shape."""
    likely = [order for order in ORDERS if _fits(shape, order, joints)]
    likely = [order for order in likely if shape[order.index("C")] >= dims] or likely
    if len(likely) == 1:
        return likely[0]
    if likely:
        choices = " and ".join(_described(order) for order in likely)
        raise DataError(
            f"field {field!r}: expected a shape with one order of axes, got {list(shape)}, which fits {choices}; set "
            f"the option `axes` to {' or '.join(map(repr, likely))}"
        )
    others = [
        "".join(order)
        for letters in STORED
        if len(letters) == len(shape)
        for order in itertools.permutations(letters)
        if _fits(shape, "".join(order), joints)
    ]
    cure = "set the option `joints` to what the files hold"
    if others:
        cure = f"it may be {_described(others[0])}: then set the option `axes` to {others[0]!r}"
    elif len(shape) == 2 and shape[1] % joints == 0 and shape[1] // joints in (2, 3):
        cure = f"reshape it to [frames, {joints} joints, {shape[1] // joints} coordinates]"
    raise DataError(
        f"field {field!r}: expected an array [frames, {joints} joints, coordinates], or with bodies after frames, or "
        f"in one of the orders {', '.join(ORDERS[2:])} (T frames, M bodies, V joints, C coordinates), got shape "
        f"{list(shape)}; {cure}"
    )


def _fits(shape: Sequence[int], order: str, joints: int) -> bool:
    """Return whether a shape is likely to have an order of axes."""
    if len(shape) != len(order) or 0 in shape:
        return False
    sizes = dict(zip(order, shape, strict=True))
    if sizes["V"] != joints or sizes.get("M", 1) > MOST_BODIES:
        return False
    if order in STORED:
        return sizes["C"] <= MOST_COORDINATES and sizes.get("M", 1) <= max(sizes["T"], FEW_BODIES)
    return 2 <= sizes["C"] <= 4 and sizes.get("M", 0) < sizes["T"]


def _described(order: str) -> str:
    names = {"T": "frames", "M": "bodies", "V": "joints", "C": "coordinates"}
    return f"[{', '.join(names[letter] for letter in order)}]"
