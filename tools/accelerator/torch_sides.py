"""What the sides of PyTorch share: the device, waiting, memory, and a row."""

from collections.abc import Callable
from typing import Any

import torch

from accelerator.timing import GIB, describe_rate, time_call


def choose_device() -> str:
    """Returns "cuda" if PyTorch has a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def keep_jax_off_the_device() -> None:
    """Leaves the accelerator to PyTorch. Call it before jax makes its first array."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def name_device() -> str:
    """Returns the name of PyTorch's device, as jax has it."""
    return torch.cuda.get_device_name() if choose_device() == "cuda" else "cpu"


def wait(_: Any = None) -> None:
    """Waits until the device has finished."""
    if choose_device() == "cuda":
        torch.cuda.synchronize()


def measure_call(
    call: Callable[[], Any], images: int, flops: float, *, added: bool = True
) -> dict[str, float]:
    """Times a call and computes its rate and memory.

    Args:
      call: The call.
      images: Images of a call.
      flops: Operations of one image. 0: unknown.
      added: Report the memory that the call adds. Otherwise report all memory.
    """
    held = 0
    on_gpu = choose_device() == "cuda"
    times = time_call(call, wait, pipelined=on_gpu)
    if on_gpu:
        # Compilation may need more memory than the call itself
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() if added else 0
        call()
        wait()
    memory = (torch.cuda.max_memory_allocated() - held) / GIB if on_gpu else None
    row = times | describe_rate(times, images, flops, name_device())
    return row | ({} if memory is None else {"memory_gib": memory})
