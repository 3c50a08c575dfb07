"""Program that reads MATLAB files for `MatReader`, in a process of its own with limits.

It reads pairs of a path and a field from standard input, one JSON list a line. For each it writes
a line of JSON to standard output: {"error": text}, or {"maps": [[dtype, H, W], ...]} followed by
the bytes of the maps.
"""

import json
import os
import resource
import sys

# Bytes of address space, most of which the libraries reserve without using them
MEMORY = 2**31


def main() -> None:
    """Answers until standard input ends."""
    # Modules in the folder of this file would hide libraries of the same name.
    sys.path.pop(0)
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        try:
            resource.setrlimit(kind, (MEMORY, MEMORY))
        # Not every system has this limit. The time limit of the caller remains.
        except (ValueError, OSError):
            continue
    out = os.fdopen(os.dup(1), "wb")
    # Whatever the libraries print must not look like an answer.
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            maps = read_maps(*json.loads(line))
            answer = {"maps": [[str(regions.dtype), *regions.shape] for regions in maps]}
        # SciPy raises anything from TypeError to zlib.error for broken files.
        except Exception as error:
            maps, answer = [], {"error": (str(error) or type(error).__name__)[:300]}
        out.write(json.dumps(answer).encode() + b"\n")
        for regions in maps:
            out.write(regions.tobytes())
        out.flush()


def read_maps(path: str, field: str) -> list:
    """Reads a field of every cell of "groundTruth": "Segmentation" or "Boundaries".

    Returns:
      One uint16 or int32 [H, W] per annotator.

    Raises:
      ValueError: the file has other content. SciPy raises further errors.
    """
    import numpy as np
    import scipy.io

    cells = scipy.io.loadmat(path, variable_names=["groundTruth"])["groundTruth"]
    maps = [np.asarray(cell[field][0, 0]) for cell in cells.ravel()]
    for regions in maps:
        if regions.ndim != 2 or regions.dtype.kind not in "iufb":
            raise ValueError(f"{field} is {regions.dtype} {list(regions.shape)}, not a map")
        if regions.size and not -(2**31) <= regions.min() <= regions.max() < 2**31:
            raise ValueError(f"{field} has values beyond 32 bits")
    # 16 bits hold all maps of BSDS500, and half the bytes pass faster.
    small = [regions.size == 0 or 0 <= regions.min() <= regions.max() < 2**16 for regions in maps]
    return [
        np.ascontiguousarray(regions, np.uint16 if fits else np.int32)
        for regions, fits in zip(maps, small, strict=True)
    ]


if __name__ == "__main__":
    main()
