"""The device mesh, and the sharding of each array of the state and the batch on it.

The mesh always has two axes. The batch is split over ("data", "fsdp"). Parameters and optimizer
state are split over "fsdp" only (fully sharded data parallelism, FSDP, `config.mesh.fsdp`).
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
    """Makes a mesh over all devices of all processes, with axes ("data", "fsdp").

    Neighbors along an axis are neighbors on a TPU's torus. Several TPU slices are connected by slow
    links, which only the "data" axis crosses. Axes are Auto, because jax.make_mesh's default,
    Explicit, breaks linen's initializers.

        mesh = make_mesh(data=-1, fsdp=1)  # plain data parallelism

    Args:
      data: Size of the "data" axis. -1: number of devices / fsdp.
      fsdp: Size of the "fsdp" axis. -1: number of devices / data.
      devices: Devices other than the attached ones, to compile for them.

    Raises:
      ValueError: The sizes do not fit. Names the number of devices and sizes that work.
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices)
    # Replace -1
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
    return Mesh(_arrange(devices, *sizes), BATCH_AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def _arrange(devices: Sequence[jax.Device], data: int, fsdp: int) -> np.ndarray:
    """Returns the devices as an array [data, fsdp] that fits their topology."""
    slices = (
        len({getattr(device, "slice_index", 0) for device in devices})
        if devices[0].platform == "tpu"
        else 1
    )
    if data % slices:
        raise ValueError(
            f"mesh.data={data}, mesh.fsdp={fsdp}: there are {slices} TPU slices, and parameters "
            "are not split over the slow links between them; expected mesh.data to be a multiple "
            f"of {slices}, such as mesh.data={slices}, mesh.fsdp={len(devices) // slices}"
        )
    # Without splitting, an axis of 8 would not fit a torus of 16 x 16.
    options = dict(devices=devices, allow_split_physical_axes=True)
    if slices == 1:
        return mesh_utils.create_device_mesh((data, fsdp), **options)
    return mesh_utils.create_hybrid_device_mesh((data // slices, fsdp), (slices, 1), **options)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its leading axis over all devices."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def check_batch_size(batch_size: int, microbatches: int, mesh: Mesh) -> None:
    """Checks that each device gets the same number of images of each microbatch.

    Raises:
      ValueError: Names the nearest batch sizes that work.
    """
    unit = microbatches * mesh.size
    if rest := batch_size % unit:
        below, above = batch_size - rest, batch_size - rest + unit
        processes = jax.process_count()
        spread = f" ({processes} processes x {mesh.size // processes})" if processes > 1 else ""
        raise ValueError(
            f"batch_size {batch_size} does not divide over {mesh.size} "
            f"device{'s' * (mesh.size > 1)}{spread} x {microbatches} "
            f"microbatch{'es' * (microbatches > 1)}; expected a multiple of {unit}: "
            + (f"{below} or {above}" if below else f"{above} is the smallest")
        )


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays, split over the mesh, from the rows of each process.

    Args:
      batch: Rows of this process. `index` stays on the host and is left out.
      mesh: Mesh with axes ("data", "fsdp").
    """
    sharding = batch_sharding(mesh)
    # Intended, although jax regards it as an implicit transfer between processes
    with jax.transfer_guard_host_to_device("allow"):
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
    """Returns a NamedSharding for each array of a state or variables tree.

    Splits the largest dimension that the fsdp axis divides, for arrays of at least `floor`
    elements. The path of an optimizer moment ends with the path of its parameter, so unanchored
    regexes serve both.

    Args:
      shapes: Tree of arrays or ShapeDtypeStructs.
      mesh: Mesh with axes ("data", "fsdp").
      floor: Arrays with fewer elements stay whole on every device.
      overrides: (regex on the path, axis name or None per dimension). The first match counts.
      unsharded_tolerance: Share of the bytes, 0..1, that may stay whole when fsdp > 1.

    Raises:
      ValueError: An override does not fit, or more bytes than tolerated stay whole. Names the
        largest such arrays.
    """
    # The first matching override decides, else the largest dimension
    rules = [(re.compile(pattern), tuple(axes)) for pattern, axes in overrides]
    unsharded: list[tuple[int, str]] = []
    total = 0

    def choose(path: Sequence[Any], leaf: Any) -> NamedSharding:
        """Returns the sharding of one array, counts its bytes, and notes it if it stays whole."""
        nonlocal total
        name = parameter_path(path)
        rule = next((axes for pattern, axes in rules if pattern.search(name)), None)
        if rule is not None and leaf.ndim == len(rule):
            spec = _make_spec(name, leaf.shape, rule, mesh)
        else:
            if rule is not None and leaf.ndim > 0:
                raise ValueError(
                    f"mesh.overrides gives {name} of shape {leaf.shape} the axes {rule}; expected "
                    "one per dimension"
                )
            spec = _split_largest(leaf.shape, mesh.shape["fsdp"], floor)
        bytes_ = (
            0
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf.size * leaf.dtype.itemsize
        )
        total += bytes_
        if not any(spec):
            unsharded.append((bytes_, f"{name} {leaf.shape}"))
        return NamedSharding(mesh, spec)

    shardings = jax.tree_util.tree_map_with_path(choose, shapes)
    if mesh.shape["fsdp"] > 1:
        _check_unsharded(unsharded, total, mesh.shape["fsdp"], floor, unsharded_tolerance)
    return shardings


def _check_unsharded(
    unsharded: Sequence[tuple[int, str]], total: int, fsdp: int, floor: int, tolerance: float
) -> None:
    """Raises ValueError that names the largest unsharded arrays, if they hold too many bytes.

    FSDP saves little memory then, which is better known before the run.
    """
    share = sum(size for size, _ in unsharded) / max(total, 1)
    if share <= tolerance:
        return
    largest = "; ".join(
        f"{name}, {size / 2**20:.2f} MiB" for size, name in sorted(unsharded, reverse=True)[:5]
    )
    raise ValueError(
        f"with mesh.fsdp={fsdp}, {share:.0%} of the state's bytes would be whole on every device, "
        f"more than mesh.unsharded_tolerance={tolerance:.0%}. Largest: {largest}. Lower mesh.floor "
        f"(now {floor} elements), add mesh.overrides, or raise the tolerance"
    )


def _split_largest(shape: Sequence[int], ways: int, floor: int) -> P:
    """Splits the largest dimension that `ways` divides, or none below `floor` elements."""
    if ways == 1 or np.prod(shape, dtype=np.int64) < floor:
        return P()
    fitting = [axis for axis, size in enumerate(shape) if size % ways == 0 and size > 0]
    if not fitting:
        return P()
    chosen = max(fitting, key=lambda axis: shape[axis])
    return P(*("fsdp" if axis == chosen else None for axis in range(chosen + 1)))


def _make_spec(name: str, shape: Sequence[int], axes: Sequence[str | None], mesh: Mesh) -> P:
    """Makes a spec of an override. Raises ValueError if it does not fit the array or the mesh."""
    for size, axis in zip(shape, axes, strict=True):
        if axis is not None and (axis not in mesh.shape or size % mesh.shape[axis]):
            raise ValueError(
                f"mesh.overrides puts a dimension of {name} {tuple(shape)} on {axis!r}; expected "
                f"an axis of {dict(mesh.shape)} whose size divides it, or None"
            )
    return P(*axes)


def to_host(tree: Any) -> Any:
    """Gathers whole arrays as NumPy on each process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)
