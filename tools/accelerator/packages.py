"""The packages that a machine without network lacks, and how to carry them there.

Standard library only: on such a machine nothing else may be there.
"""

import configparser
import pathlib
import re
import sys
from importlib import metadata

SETUP = pathlib.Path(__file__).resolve().parents[2] / "setup.cfg"
# Sides of PyTorch need these. Everything else is measured without them.
COMPARED = ("torch", "transformers", "torchvision", "segment-anything")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def list_requirements() -> list[str]:
    """Lists segjax's requirements, such as "numpy >=2.0", from setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(SETUP)
    lines = parser["options"]["install_requires"].splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def find_version(requirement: str) -> str | None:
    """Returns the installed version of a requirement, None if it is not installed."""
    try:
        return metadata.version(_NAME.match(requirement)[0])
    except metadata.PackageNotFoundError:
        return None


def describe() -> str:
    """Returns a table of what is installed, and the commands that bring what is missing."""
    lines, missing = [], []
    for requirement in [*list_requirements(), *COMPARED]:
        version = find_version(requirement)
        optional = " (only for the sides of PyTorch)" if requirement in COMPARED else ""
        lines.append(f"{requirement:<30} {version or 'missing'}{optional}")
        if version is None and not optional:
            missing.append(requirement.replace(" ", ""))
    plugins = [name for name in ("jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu")
               if find_version(name)]  # fmt: skip
    lines.append(f"{'jax for the accelerator':<30} {', '.join(plugins) or 'missing'}")
    if not plugins:
        missing.append("'jax[cuda12]' or 'jax[cuda13]' or 'jax[tpu]', >=0.10,<0.13")
    if not missing:
        return "\n".join([*lines, "", "Nothing that segjax needs is missing."])
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return "\n".join([
        *lines,
        "",
        f"Missing: {', '.join(missing)}.",
        "On a machine with network, for the Python of this machine:",
        "    pip download --no-deps --only-binary=:all: --platform manylinux_2_28_x86_64 "
        "--platform manylinux2014_x86_64 --platform any "
        f"--python-version {version} -d wheels NAMES",
        "--no-deps leaves jax, NumPy and the like alone, which this machine has. Bring what those "
        "names require too, as far as `pip check` misses it. Then, on this machine:",
        "    pip install --no-index --no-deps --find-links wheels NAMES",
        "segjax itself need not be installed: the clone is used as it is.",
    ])  # fmt: skip
