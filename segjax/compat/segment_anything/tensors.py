"""Conversion between NumPy, JAX and torch arrays. Results have the kind of the inputs.

Torch is never imported here: a program that passes a tensor has imported it already.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np


class HostArray(np.ndarray):
    """NumPy array with the methods that programs call on a tensor to get a NumPy array."""

    def detach(self) -> "HostArray":
        """Returns itself."""
        return self

    def cpu(self) -> "HostArray":
        """Returns itself."""
        return self

    def numpy(self) -> np.ndarray:
        """Returns the plain array, sharing memory."""
        return self.view(np.ndarray)


def is_tensor(value: Any) -> bool:
    """Tests if a value is a torch tensor or an instance of a subclass."""
    return any(
        f"{kind.__module__}.{kind.__name__}" == "torch.Tensor" for kind in type(value).__mro__
    )


def to_numpy(value: Any) -> Any:
    """Converts a tensor on any device to a NumPy array. Returns everything else unchanged."""
    if not is_tensor(value):
        return value
    # NumPy has no bfloat16.
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()


def make_converter(*given: Any, device: Any = "cpu") -> Callable[[np.ndarray], Any]:
    """Returns the function that converts results to the kind of the given inputs.

    If an input is a tensor, results are tensors on its device. If none is, they are NumPy arrays.
    If there is no input at all (each is None), results are tensors on `device` when the program has
    imported torch, and NumPy arrays otherwise.

    Args:
      *given: The inputs, each an array, a tensor or None.
      device: Device of tensors when there is no input.
    """
    # Torch is used only if the program has imported it.
    torch = sys.modules.get("torch")
    given = [value for value in given if value is not None]
    tensor = next(filter(is_tensor, given), None)
    if torch is None or (given and tensor is None):
        return lambda array: np.asarray(array).view(HostArray)
    target = device if tensor is None else tensor.device
    return lambda array: torch.from_numpy(np.require(array, requirements=["C", "W"])).to(target)


def find_tensor_device(name: Any) -> Any:
    """Returns the torch device of a name, or the CPU if torch does not have it.

    Args:
      name: Name of the device, such as "cuda". Returned unchanged if torch is not imported.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return name
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):  # torch was built without the device, or finds none
        return torch.device("cpu")
