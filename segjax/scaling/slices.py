"""TPU slices by the names that they are rented under, what their chips can do, and their devices to compile for.

Compiling needs the compiler of TPUs, libtpu (`pip install 'segjax[tpu]'`), and no TPU.
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
    """One chip of a kind, as its maker states it (Google's pages of the TPU versions).

    Attributes:
      tflops: 1e12 operations a second on bfloat16. memory_gib: what the compiler may use of it, GiB, which is what it
        says when a program is too large. memory_gbs: of the memory, 1e9 bytes a second.
      link_gbs: of one link to a neighbour, 1e9 bytes a second each way; there are two of them along a torus's axis.
      hosts_gbs: a chip's share of its host's way out of the slice, 1e9 bytes a second. Stated for v5e alone; the others
        are assumed.
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
# What libtpu would else ask the cloud for, or complain about; two compilations at once are fine where there is no TPU.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
}
_NO_TPU |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
_CORES = ("v4", "v5p")  # their names count cores, two a chip
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
    """What compiling for TPUs needs is not here; the message says how to get it."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of a pod, or several that are joined by the data centre's network.

    Attributes:
      kind: "v5e" and so on. shape: chips along each axis of the torus. slices: how many of them.
    """

    kind: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chip(self) -> Chip:
        """What each chip can do."""
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        """Of all slices together."""
        return math.prod(self.shape) * self.slices

    @property
    def name(self) -> str:
        """As one rents it."""
        size = math.prod(self.shape) * (2 if self.kind in _CORES else 1)
        return f"{self.kind}-{size}" + (f" x {self.slices}" if self.slices > 1 else "")

    def __str__(self) -> str:
        return f"{self.name}: {self.chips} chips, {' x '.join(map(str, self.shape))}" + " each" * (
            self.slices > 1
        )

    def devices(self) -> list[Any]:
        """Its devices, to compile for. Raises SetupError without libtpu."""
        if importlib.util.find_spec("libtpu") is None:
            raise SetupError(
                "compiling for a TPU needs its compiler, libtpu, which is not installed (no TPU is needed): "
                "pip install 'segjax[tpu]', or in a checkout pip install -e '.[tpu]'; 0.5 GB"
            )
        os.environ.update(
            {name: value for name, value in _NO_TPU.items() if name not in os.environ}
        )
        from jax.experimental import topologies

        options: dict[str, Any] = {"num_slices": self.slices} if self.slices > 1 else {}
        if math.prod(self.shape) == 1:
            options["chips_per_host_bounds"] = (1, 1, 1)
        if self.kind == "v4":
            options["chip_config_name"] = "megacore"  # else each chip would be two devices
        topology = f"{self.kind}:{'x'.join(map(str, self.shape))}"
        return list(
            topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
        )


def parse_slice(name: str, slices: int = 1) -> Slice:
    """The slice of a name: v5e-256 (or v5litepod-256), v5p-128, or by its shape, v5p:4x4x4.

    Names of v4 and v5p count cores, two a chip, so that v5p-128 has 64 chips.

    Raises:
      ValueError: no such slice; the message lists those there are.
    """
    if slices < 1:
        raise ValueError(f"slices is {slices}; expected at least 1")
    kind, sign, size = re.fullmatch(
        r"([a-z0-9]*)([-:]?)(.*)", name.strip().lower().replace("v5litepod", "v5e")
    ).groups()
    if kind not in CHIPS:
        near = difflib.get_close_matches(kind, CHIPS, 1, cutoff=0)[0]
        raise ValueError(
            f"no TPU of kind {kind!r} in {name!r}; did you mean {near}? There are {', '.join(known_slices())}"
        )
    for shape in _SHAPES[kind]:
        found = Slice(kind, shape, slices)
        if (sign, size) in (
            ("-", Slice(kind, shape).name.split("-")[1]),
            (":", "x".join(map(str, shape))),
        ):
            return found
    hint = " (the number counts cores, two a chip)" if kind in _CORES else ""
    raise ValueError(
        f"no slice {name!r}; of {kind} there are {', '.join(known_slices(kind))}{hint}"
    )


def known_slices(kind: str | None = None) -> list[str]:
    """Names of the slices, of one kind or of all."""
    kinds = CHIPS if kind is None else (kind,)
    return [Slice(kind, shape).name for kind in kinds for shape in _SHAPES[kind]]
