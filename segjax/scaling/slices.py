"""TPU slices by name, the rates of their chips, and their devices to compile for.

Compiling needs the compiler for TPUs, libtpu (`pip install 'segjax[tpu]'`), but no TPU.
"""

import dataclasses
import difflib
import importlib.util
import math
import os
import re
from typing import Any

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Rates of one chip, from Google's pages about the TPU versions.

    Attributes:
      tflops: Peak rate in bfloat16, 1e12 operations per second.
      memory_gib: Memory that the compiler may use, in GiB. The compiler states it when a program is
        too large.
      memory_gbs: Bandwidth of the main memory, 1e9 bytes per second.
      link_gbs: Bandwidth of one link to a neighbor, 1e9 bytes per second each way. A chip has two
        links along each axis of the torus.
      hosts_gbs: The chip's share of its host's bandwidth to other slices, 1e9 bytes per second.
        Google states it for v5e. The others are assumed.
    """

    tflops: float
    memory_gib: float
    memory_gbs: float
    link_gbs: float
    hosts_gbs: float


CHIPS = {
    "v4": Chip(275, 30.75, 1200, 50, 6.25),
    "v5e": Chip(197, 15.75, 819, 50, 3.125),
    "v5p": Chip(459, 95.74, 2765, 100, 6.25),
    "v6e": Chip(918, 31.25, 1638, 100, 12.5),
}
# Without these libtpu queries the cloud's metadata server, and refuses a second process. Without a
# TPU, two compilations at a time do no harm.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
}
_NO_TPU |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
_CORES = ("v4", "v5p")  # their names count cores, two per chip
# Shapes of slices: 2D and 3D tori.
_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_DEEP = (
    (2, 2, 1),
    (2, 2, 2),
    (2, 2, 4),
    (2, 4, 4),
    (4, 4, 4),
    (4, 4, 8),
    (4, 8, 8),
    (8, 8, 8),
    (8, 8, 16),
)
_SHAPES = {"v4": _DEEP, "v5p": _DEEP, "v5e": _FLAT, "v6e": _FLAT}


class SetupError(RuntimeError):
    """Something that compiling for TPUs needs is missing. The message says how to install it."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of a TPU pod, or several equal ones that the data center's network connects.

    Attributes:
      kind: Kind of the chips, a key of `CHIPS`.
      shape: Number of chips along each axis of the torus.
      slices: Number of slices.
    """

    kind: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chip(self) -> Chip:
        """Rates of each chip."""
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        """Number of chips of all slices together."""
        return math.prod(self.shape) * self.slices

    @property
    def name(self) -> str:
        """Name under which it is rented."""
        size = math.prod(self.shape) * (2 if self.kind in _CORES else 1)
        return f"{self.kind}-{size}" + (f" x {self.slices}" if self.slices > 1 else "")

    def __str__(self) -> str:
        return f"{self.name}: {self.chips} chips, {' x '.join(map(str, self.shape))}" + " each" * (
            self.slices > 1
        )

    def list_devices(self) -> list[Any]:
        """Returns its devices, to compile for.

        Raises:
          SetupError: libtpu is not installed.
        """
        if importlib.util.find_spec("libtpu") is None:
            raise SetupError(
                "compiling for a TPU needs its compiler, libtpu, which is not installed (no TPU is "
                "needed): pip install 'segjax[tpu]', or in a checkout pip install -e '.[tpu]'; "
                "0.5 GB"
            )
        os.environ.update(
            {name: value for name, value in _NO_TPU.items() if name not in os.environ}
        )
        from jax.experimental import topologies

        # A single chip, and v4, need options of their own.
        options: dict[str, Any] = {"num_slices": self.slices} if self.slices > 1 else {}
        if math.prod(self.shape) == 1:
            options["chips_per_host_bounds"] = (1, 1, 1)
        if self.kind == "v4":
            options["chip_config_name"] = "megacore"  # otherwise each chip is two devices
        topology = f"{self.kind}:{'x'.join(map(str, self.shape))}"
        return list(
            topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
        )


def parse_slice(name: str, slices: int = 1) -> Slice:
    """Returns the slice of a name.

    Example:
      >>> parse_slice("v5p-128").chips
      64

    Args:
      name: Such as v5e-256 (or v5litepod-256), v5p-128, or with its shape v5p:4x4x4. The names of
        v4 and v5p count cores, two per chip.
      slices: Number of slices.

    Raises:
      ValueError: No such slice. The message lists the existing ones.
    """
    if slices < 1:
        raise ValueError(f"slices is {slices}; expected at least 1")
    kind, sign, size = re.fullmatch(
        r"([a-z0-9]*)([-:]?)(.*)", name.strip().lower().replace("v5litepod", "v5e")
    ).groups()
    if kind not in CHIPS:
        near = difflib.get_close_matches(kind, CHIPS, 1, cutoff=0)[0]
        raise ValueError(
            f"no TPU of kind {kind!r} in {name!r}; did you mean {near}? There are "
            f"{', '.join(list_slices())}"
        )
    # By number of chips or cores, or by shape
    for shape in _SHAPES[kind]:
        candidate = Slice(kind, shape, slices)
        if (sign, size) in (
            ("-", Slice(kind, shape).name.split("-")[1]),
            (":", "x".join(map(str, shape))),
        ):
            return candidate
    hint = " (the number counts cores, two per chip)" if kind in _CORES else ""
    raise ValueError(f"no slice {name!r}; of {kind} there are {', '.join(list_slices(kind))}{hint}")


def list_slices(kind: str | None = None) -> list[str]:
    """Lists the names of the slices, of one kind or of all."""
    kinds = CHIPS if kind is None else (kind,)
    return [Slice(kind, shape).name for kind in kinds for shape in _SHAPES[kind]]
