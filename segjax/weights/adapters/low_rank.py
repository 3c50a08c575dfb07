"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) as a function of the parameters.

An adapter adds scale * a b to a kernel [in, out], with a [in, rank] and b [rank, out]. The model
itself does not know of it. Adapters lie beside the parameters:

    params/lora/<module>/<name>/{a, b}     name: "q", "k" or "v" (a third of a fused kernel "qkv"),
                                           or "kernel" (all of it)
    constants/lora/scale                   float32 scalar
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

LORA = "lora"
# Position in the fused kernel of an attention layer [in, 3 * out]
THIRDS = {"q": 0, "k": 1, "v": 2}
WHOLE = "kernel"
SCALE_PATH = f"{LORA}/scale"  # among the constants


def add_low_rank(
    kernel: Any,
    adapters: Mapping[str, Mapping[str, Any]],
    scale: Any,
    matmul: Callable[[Any, Any], Any] = np.matmul,
) -> Any:
    """Adds the adapters of one kernel to it.

    Args:
      kernel: float32 [in, out].
      adapters: name -> {"a": float32 [in, rank], "b": float32 [rank, out or out / 3]}. Names are
        those of the module's docstring.
      scale: factor of the products.
      matmul: matrix product. For traced arrays `jnp.matmul` with precision "highest".

    Returns:
      float32 [in, out].

    Raises:
      ValueError: the shape of an adapter does not fit the kernel.
    """
    width = kernel.shape[-1]
    for name, pair in adapters.items():
        a, b = pair["a"], pair["b"]
        out = width if name == WHOLE else width // 3
        if a.shape != (kernel.shape[0], b.shape[0]) or b.shape[1] != out:
            raise ValueError(
                f"adapter {name!r} has a {a.shape} and b {b.shape}; expected "
                f"({kernel.shape[0]}, rank) and (rank, {out}) for a kernel {kernel.shape}"
            )
        product = scale * matmul(a, b)
        if name != WHOLE:
            before = THIRDS[name] * out
            around = [(0, 0), (before, width - before - out)]
            product = product.__array_namespace__().pad(product, around)
        kernel = kernel + product
    return kernel


def find_kernel(path: str) -> str:
    """Returns the path of the kernel that an adapter adds to.

    Args:
      path: of the adapter, "lora/<module>/<name>/a" or "lora/<module>/<name>/b".
    """
    return f"{path.removeprefix(f'{LORA}/').rsplit('/', 2)[0]}/kernel"


def merge_low_rank(
    params: Mapping[str, Any],
    scale: Any,
    matmul: Callable[[Any, Any], Any] = np.matmul,
) -> dict[str, Any]:
    """Returns parameters without adapters: each is added to its kernel.

    Args:
      params: path -> array, with "lora/..." as in the module's docstring.
      scale: as for `add_low_rank`.
      matmul: as for `add_low_rank`.

    Raises:
      ValueError: an adapter of a kernel that is missing, or of another shape.
    """
    merged, adapters = {}, {}
    for path, array in params.items():
        if path.startswith(f"{LORA}/"):
            _, name, side = path.rsplit("/", 2)
            adapters.setdefault(find_kernel(path), {}).setdefault(name, {})[side] = array
        else:
            merged[path] = array
    for path, pairs in adapters.items():
        if path not in merged:
            raise ValueError(f"there is an adapter for {path}, which the model does not have")
        try:
            merged[path] = add_low_rank(merged[path], pairs, scale, matmul)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return merged
