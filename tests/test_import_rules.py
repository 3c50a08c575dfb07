"""Who may import whom, read from the source of every module."""

import ast
import pathlib
import re
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "segjax"

# Part of the package -> parts it may import besides itself. docs: CONTRIBUTING.md has the same
# table for people.
INSIDE = {
    "__init__": set(),
    "__main__": {"cli"},
    "files": set(),
    "messages": set(),
    "locks": set(),
    "registry": set(),
    "run_lengths": set(),
    "regions": {"run_lengths"},
    "masks": {"regions", "run_lengths"},
    "images": set(),
    "ops": set(),
    "text": set(),
    "weights": {"ops"},  # only `ops.positions`, which needs NumPy alone (see OUTSIDE)
    "data": {"masks", "images", "text"},
    "models": {"ops"},
    "losses": {"ops"},
    "prompting": {"ops"},
    "evaluation": {"ops", "masks"},
    "inference": {"models", "ops", "weights", "images", "masks", "text"},
    "compat": {"inference", "models", "images", "weights"},
    "web": {"inference", "images", "masks", "weights", "engine"},
    "inspect": {"inference", "images", "models", "viz", "weights"},
    "engine": {"inference", "images", "masks", "data", "tasks", "training", "models", "weights"},
    "training": {"ops", "weights"},
    "scaling": {"training"},
    "viz": {"masks"},
    "tasks": {
        *(
            "ops",
            "masks",
            "images",
            "text",
            "models",
            "losses",
            "prompting",
            "data",
            "training",
            "evaluation",
        ),
        *("weights", "inference", "viz"),
    },
}
FOR_ALL = {"files", "locks", "messages", "registry"}  # need the standard library alone
INSIDE["cli"] = {*INSIDE, "tasks"} - {"__main__"}

JAX = {"jax", "flax", "optax", "chex"}
# Part -> third-party packages that importing it may load. Parts that are not here may import
# anything declared.
OUTSIDE = {
    "__init__": set(),
    "files": set(),
    "messages": set(),
    "locks": set(),
    "registry": set(),
    "run_lengths": {"numpy", "pycocotools"},
    "regions": {"numpy"},
    "masks": {"numpy", "pycocotools"},
    "images": {"numpy", "PIL"},
    "ops": {"jax", "numpy"},
    "text": {"numpy"},
    "weights": {"numpy"},
    "models": {"jax", "flax", "numpy"},
    "losses": {"jax", "flax", "numpy", "optax"},
    "prompting": {"jax", "flax", "numpy"},
    "evaluation": {"jax", "numpy", "pycocotools", "scipy"},
    "inference": {"jax", "flax", "numpy"},
    "compat": {"jax", "flax", "numpy"},
    "web": {"numpy", "anyio", "starlette"},
    "engine": {"numpy", "scipy"},
    "inspect": {"jax", "flax", "numpy", "PIL"},
    "scaling": {"jax", "numpy", "ml_collections"},
    "viz": {"numpy", "PIL", "matplotlib"},
    "cli": {"numpy"},
}
# Imported inside functions alone, where they are needed.
LAZILY = {
    "masks": {"scipy"},
    "images": {"tifffile"},
    "evaluation": {"skimage"},
    "text": {"regex", "ftfy"},
    "inference": {"scipy", "rich", "optax", "jax2onnx", "onnx", "onnxruntime"},
    "weights": {"orbax", "safetensors", "ml_dtypes", "rich"},
    "compat": {"cvat_sdk", "scipy", "skimage"},
    "cli": {"jax", "absl", "ml_collections", "uvicorn"},
}
NEVER = {"tensorflow", "torch", "transformers", "keras"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path):
    place = path.relative_to(PACKAGE).parts
    return place[0].removesuffix(".py")


def imports(path):
    """(dotted name, whether it is loaded together with the module) of each import; from-imports
    name the member too.
    """
    tree = ast.parse(path.read_text(), str(path))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) not in inside


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_its_part_may(path):
    part = part_of(path)
    assert part in INSIDE, (
        f"segjax/{part} is a new part of the package: say here what it may import"
    )
    for name, at_once in imports(path):
        root, *rest = name.split(".")
        if root == "segjax":
            allowed = INSIDE[part] | FOR_ALL | {part}
            fits = not rest or any(
                rest == a.split(".")[: len(rest)] or rest[: len(a.split("."))] == a.split(".")
                for a in allowed
            )
            assert fits or rest == ["__version__"], (
                f"{part} may not import {name}; it may import {sorted(allowed)}"
            )
        elif root not in sys.stdlib_module_names:
            assert root not in NEVER, f"the core never imports {root}"
            assert not (part == "data" and root in JAX), f"data yields NumPy and imports no {root}"
            if part in OUTSIDE:
                allowed = OUTSIDE[part] | (set() if at_once else LAZILY.get(part, set()))
                assert root in allowed, (
                    f"{part} may not import {root}{' at module level' * at_once}"
                )


def test_the_check_sees_imports_and_tells_lazy_ones():
    found = set(imports(PACKAGE / "weights" / "run_folder.py"))
    assert ("numpy", True) in found and ("orbax.checkpoint", False) in found
    assert ("segjax.weights.tree.CheckpointError", True) in found
    assert len(MODULES) > 40


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_has_a_name_of_its_own_a_docstring_and_a_readable_length(path):
    assert not VAGUE & {part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts}
    source = path.read_text()
    assert not source.strip() or ast.get_docstring(ast.parse(source)), (
        f"{path} does not say what it is"
    )
    assert len(source.splitlines()) <= 400


def test_one_function_opens_images():
    """Pillow opens PostScript with another program, and its limit of pixels is not ours."""
    openers = re.compile(r"\bImage\.open\(|\b(imread|imageio|cv2)\b|TiffFile\(")
    folders = [PACKAGE, PACKAGE.parent / "tools", PACKAGE.parent / "experiments"]
    found = {
        path.name
        for folder in folders
        for path in folder.rglob("*.py")
        if openers.search(path.read_text())
    }
    assert found == {"opening.py", "tiff.py", "labels.py"}
