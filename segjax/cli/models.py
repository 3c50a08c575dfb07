"""List all models with canvas, encoder and number of parameters, and the published weights.

  segjax models

Models that other packages register are listed too.
"""

import argparse
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: the command has no arguments."""


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Prints both tables. The numbers of parameters are stored, so that nothing is traced."""
    from segjax.inference.loading import available_models
    from segjax.weights.download import get_weights_folder
    from segjax.weights.registry import PACKAGED, PUBLISHED, find_packaged

    # Models
    print(f"{'name':<26} {'canvas':>6}  {'encoder':<29} {'parameters':>12}")
    for name, model in available_models(details=True).items():
        parameters = f"{model['parameters']:,}"
        print(f"{name:<26} {model['canvas']:>6}  {model['encoder']:<29} {parameters:>12}")
    print("\nWeights in the package, for trying segjax:")
    for name in PACKAGED:
        print(f"{find_packaged(name)}\n  {name}, docs/results/demo.md says what it can do")
    # Published weights
    print(
        "\nPublished weights: segjax.load(NAME) downloads them once into "
        f"{get_weights_folder()}, or finds them there."
    )
    for name, file in PUBLISHED.items():
        there = (
            "in the cache" if (get_weights_folder() / file.name).is_file() else "not in the cache"
        )
        print(f"{file.url}\n  {name}, {file.size}, {file.license}, {there}")
        whole = len(file.sha256) == 64
        print(f"  sha256 {file.sha256}" + ("" if whole else "... (the publisher states no more)"))
    return 0
