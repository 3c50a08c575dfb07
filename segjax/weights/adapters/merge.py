"""Low-rank adapters (LoRA) in checkpoints: merged into their kernels when a model is loaded."""

from collections.abc import Mapping
from typing import Any

from segjax.weights.adapters.low_rank import LORA, SCALE_PATH, find_kernel, merge_low_rank
from segjax.weights.tree import CheckpointError, flatten, unflatten


def has_adapters(variables: Mapping[str, Any]) -> bool:
    """Tells whether variables hold adapters beside the parameters."""
    return LORA in variables.get("params", {})


def merge_adapters(variables: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Returns variables without adapters: each is added to its kernel, in float32.

    Args:
      variables: {"params", "constants"} of a run, or of a model with adapters put beside it. An
        adapted kernel lies in either.
      source: name of the checkpoint for messages.

    Raises:
      CheckpointError: the adapters do not fit the kernels, or have no scale.
    """
    if not has_adapters(variables):
        return dict(variables)
    params, constants = flatten(variables["params"]), flatten(variables.get("constants", {}))
    scale = constants.pop(SCALE_PATH, None)
    if scale is None:
        raise CheckpointError(f"{source} has adapters (params/lora) without constants/lora/scale")
    for path in [path for path in params if path.startswith(f"{LORA}/")]:
        kernel = find_kernel(path)
        if kernel in constants:
            params[kernel] = constants.pop(kernel)
    try:
        merged = merge_low_rank(params, scale)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{source}: {error}") from None
    return {"params": unflatten(merged), "constants": unflatten(constants)}
