"""The device mesh, and where each array of the state and the batch lives on it.

Two axes, always: the batch is split over ("data", "fsdp"), parameters and optimizer state over "fsdp" alone.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from segjax.training.optimizer import parameter_path

BATCH_AXES = ("data", "fsdp")
HOST_ONLY = ("index",)  # example ids: for messages, never for the device


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh over all devices of all processes with axes ("data", "fsdp"); one of the sizes may be -1.

    devices: others than those attached, to compile for them. Neighbours along an axis are neighbours on a TPU's torus,
    and of several TPU slices the slow links between them are crossed along "data" alone.
    Axes are Auto: jax.make_mesh's default, Explicit, breaks linen's initialisers.
    Raises ValueError that names the device count and a shape that works.
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices)
    sizes = [data, fsdp]
    if sizes.count(-1) == 1:
        known = sizes[0] if sizes[1] == -1 else sizes[1]
        if known > 0 and count % known == 0:
            sizes[sizes.index(-1)] = count // known
    if min(sizes) < 1 or sizes[0] * sizes[1] != count:
        fits = max(n for n in range(1, count + 1) if count % n == 0 and n <= max(fsdp, 1))
        raise ValueError(
            f"mesh.data={data}, mesh.fsdp={fsdp} does not fit {count} device{'s' * (count > 1)}: "
            f"data * fsdp must be {count}. For example mesh.data={count // fits}, mesh.fsdp={fits}"
        )
    return Mesh(_arranged(devices, *sizes), BATCH_AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def _arranged(devices: Sequence[jax.Device], data: int, fsdp: int) -> np.ndarray:
    slices = (
        len({getattr(device, "slice_index", 0) for device in devices})
        if devices[0].platform == "tpu"
        else 1
    )
    if data % slices:
        raise ValueError(
            f"mesh.data={data}, mesh.fsdp={fsdp}: there are {slices} TPU slices, and parameters are not split over the "
            f"slow links between them; expected mesh.data to be a multiple of {slices}, such as mesh.data={slices}, "
            f"mesh.fsdp={len(devices) // slices}"
        )
    # Without splitting, an axis of 8 would not fit a torus of 16 x 16.
    options = dict(devices=devices, allow_split_physical_axes=True)
    if slices == 1:
        return mesh_utils.create_device_mesh((data, fsdp), **options)
    return mesh_utils.create_hybrid_device_mesh((data // slices, fsdp), (slices, 1), **options)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis over every device."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, P())


def check_batch_size(batch_size: int, microbatches: int, mesh: Mesh) -> None:
    """Raises ValueError unless every device gets the same whole number of images of every microbatch.

    The message names the nearest sizes that work.
    """
    unit = microbatches * mesh.size
    if rest := batch_size % unit:
        below, above = batch_size - rest, batch_size - rest + unit
        processes = jax.process_count()
        spread = f" ({processes} processes x {mesh.size // processes})" if processes > 1 else ""
        raise ValueError(
            f"batch_size {batch_size} does not divide over {mesh.size} device{'s' * (mesh.size > 1)}{spread} x "
            f"{microbatches} microbatch{'es' * (microbatches > 1)}; expected a multiple of {unit}: "
            + (f"{below} or {above}" if below else f"{above} is the smallest")
        )


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows -> global arrays split over the mesh. `index` stays on the host and is left out."""
    sharding = batch_sharding(mesh)
    with jax.transfer_guard_host_to_device(
        "allow"
    ):  # meant, though jax sees it as implicit between processes
        return {
            name: jax.make_array_from_process_local_data(sharding, np.asarray(rows))
            for name, rows in batch.items()
            if name not in HOST_ONLY
        }


def state_shardings(
    shapes: Any,
    mesh: Mesh,
    *,
    floor: int = 2**18,
    overrides: Sequence[tuple[str, Sequence[str | None]]] = (),
    unsharded_tolerance: float = 1.0,
) -> Any:
    """A NamedSharding for each array of a state or variables tree (arrays or ShapeDtypeStructs).

    The largest dimension that the fsdp axis divides is split, for arrays of at least `floor` elements; the
    rest stays whole. An override (regex, axes) whose regex is found in the array's path decides instead; the
    path of an optimizer moment ends with its parameter's path, so unanchored regexes serve both. Raises
    ValueError for an override that does not fit, or, when fsdp > 1, if more than `unsharded_tolerance` of the
    bytes stays whole: the message names the largest such arrays.
    """
    rules = [(re.compile(pattern), tuple(axes)) for pattern, axes in overrides]
    whole: list[tuple[int, str]] = []
    total = 0

    def place(path: Sequence[Any], leaf: Any) -> NamedSharding:
        """The sharding of one array; counts its bytes, and notes it when it stays whole."""
        nonlocal total
        name = parameter_path(path)
        rule = next((axes for pattern, axes in rules if pattern.search(name)), None)
        if rule is not None and leaf.ndim == len(rule):
            spec = _checked(name, leaf.shape, rule, mesh)
        else:
            if rule is not None and leaf.ndim > 0:
                raise ValueError(
                    f"mesh.overrides gives {name} of shape {leaf.shape} the axes {rule}: one per dimension"
                )
            spec = _largest_divisible(leaf.shape, mesh.shape["fsdp"], floor)
        bytes_ = (
            0
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf.size * leaf.dtype.itemsize
        )
        total += bytes_
        if not any(spec):
            whole.append((bytes_, f"{name} {leaf.shape}"))
        return NamedSharding(mesh, spec)

    shardings = jax.tree_util.tree_map_with_path(place, shapes)
    share = sum(b for b, _ in whole) / max(total, 1)
    if mesh.shape["fsdp"] > 1 and share > unsharded_tolerance:
        largest = "; ".join(
            f"{name}, {b / 2**20:.2f} MiB" for b, name in sorted(whole, reverse=True)[:5]
        )
        raise ValueError(
            f"with mesh.fsdp={mesh.shape['fsdp']}, {share:.0%} of the state's bytes would be whole on every device, "
            f"more than mesh.unsharded_tolerance={unsharded_tolerance:.0%}. Largest: {largest}. "
            f"Lower mesh.floor (now {floor} elements), add mesh.overrides, or raise the tolerance"
        )
    return shardings


def _largest_divisible(shape: Sequence[int], ways: int, floor: int) -> P:
    if ways == 1 or np.prod(shape, dtype=np.int64) < floor:
        return P()
    fitting = [axis for axis, size in enumerate(shape) if size % ways == 0 and size > 0]
    if not fitting:
        return P()
    chosen = max(fitting, key=lambda axis: shape[axis])
    return P(*("fsdp" if axis == chosen else None for axis in range(chosen + 1)))


def _checked(name: str, shape: Sequence[int], axes: Sequence[str | None], mesh: Mesh) -> P:
    for size, axis in zip(shape, axes, strict=True):
        if axis is not None and (axis not in mesh.shape or size % mesh.shape[axis]):
            raise ValueError(
                f"mesh.overrides puts a dimension of {name} {tuple(shape)} on {axis!r}; expected an axis of "
                f"{dict(mesh.shape)} whose size divides it, or None"
            )
    return P(*axes)


def to_host(tree: Any) -> Any:
    """Whole arrays as NumPy on each process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)
