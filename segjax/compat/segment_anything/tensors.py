"""Arrays of NumPy, JAX and torch taken alike, and given back as they came.

Torch is never imported here: a program that hands over a tensor has imported it already.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np


class HostArray(np.ndarray):
    """A NumPy array that also knows what programs call on a tensor to get a NumPy array."""

    def detach(self) -> "HostArray":
        """Itself."""
        return self

    def cpu(self) -> "HostArray":
        """Itself."""
        return self

    def numpy(self) -> np.ndarray:
        """The plain array, of the same memory."""
        return self.view(np.ndarray)


def is_tensor(value: Any) -> bool:
    """Whether it is a tensor of torch, or of a class made of it."""
    return any(
        f"{kind.__module__}.{kind.__name__}" == "torch.Tensor" for kind in type(value).__mro__
    )


def to_numpy(value: Any) -> Any:
    """A tensor, wherever it lies, as NumPy array; None and everything else unchanged."""
    if not is_tensor(value):
        return value
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()


def as_given(*given: Any, device: Any = "cpu") -> Callable[[np.ndarray], Any]:
    """The function that returns arrays in the kind of those that were given.

    Where any of them is a tensor: as tensors, on its device. Where none is: as NumPy arrays. Where nothing was given
    (each is None) there is nothing to go by: as tensors on `device` when the program has imported torch.
    """
    torch = sys.modules.get("torch")
    given = [value for value in given if value is not None]
    tensor = next(filter(is_tensor, given), None)
    if torch is None or (given and tensor is None):
        return lambda array: np.asarray(array).view(HostArray)
    place = device if tensor is None else tensor.device
    return lambda array: torch.from_numpy(np.require(array, requirements=["C", "W"])).to(place)


def tensor_device(name: Any) -> Any:
    """The device of that name for torch's tensors, the CPU where torch has no such; the name itself without torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return name
    try:
        return torch.empty(0, device=name).device
    except (
        RuntimeError,
        AssertionError,
    ):  # torch says so when it was built without it, or finds none
        return torch.device("cpu")
