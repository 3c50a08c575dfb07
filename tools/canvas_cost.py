"""Measures the cost of detections that do not depend on the canvas, and that they do not.

    .venv/bin/python tools/canvas_cost.py maskrcnn_resnet50_fpn --content 800 1066 --canvas 800 1344

Two programs detect the objects of the same image in turn: the model, and one whose padding takes
part in its features, as in torchvision and detectron2. Both then see the image on its smallest
canvas, too. Weights are random.
"""

import argparse
import dataclasses
import statistics
import time

import jax
import numpy as np

from segjax.models.build import build_model, init_model
from segjax.models.detection.mask_rcnn import MaskRcnn


class WholeCanvas(MaskRcnn):
    """A detector that computes the whole canvas, padding included."""

    def find_region(self, canvas, sizes):
        """Returns None, which means that all of the canvas is valid."""
        del canvas, sizes


def main() -> None:
    """Prints the times of both programs, their ratio, and the differences between canvases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="maskrcnn_resnet50_fpn")
    parser.add_argument("--content", type=int, nargs=2, default=(800, 1066))
    parser.add_argument("--canvas", type=int, nargs=2, default=(800, 1344))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    model = build_model(arguments.model, score_threshold=0.0)
    parts = [field.name for field in dataclasses.fields(model) if field.init]
    leaky = WholeCanvas(**{name: getattr(model, name) for name in parts if name != "parent"})
    variables = jax.jit(lambda key: init_model(model, key))(jax.random.key(0))
    content = np.random.default_rng(0).integers(0, 256, (*arguments.content, 3), np.uint8)
    smallest = [-(-side // model.divisor) * model.divisor for side in arguments.content]

    programs = {}
    for name, each in (("valid region", model), ("whole canvas", leaky)):
        programs[name] = jax.jit(
            lambda images, sizes, each=each: each.apply(variables, images, sizes, method="detect")
        )
    inputs = {}
    for name, canvas in (("canvas", arguments.canvas), ("smallest", smallest)):
        image = np.zeros((1, *canvas, 3), np.uint8)
        image[0, : content.shape[0], : content.shape[1]] = content
        inputs[name] = image, np.array([content.shape[:2]], np.int32)
    # Differences between the canvases. These calls also compile.
    for name, program in programs.items():
        (found, *_), (other, *_) = (
            jax.block_until_ready(program(*inputs[canvas])) for canvas in ("canvas", "smallest")
        )
        boxes = float(np.abs(found.boxes - other.boxes).max())
        print(f"{name}: boxes of the two canvases differ by up to {boxes:.1e} pixels", flush=True)
    # Times, in turn
    seconds = {name: [] for name in programs}
    for _ in range(arguments.repeats):
        for name, program in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(program(*inputs["canvas"]))
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name}: {1e3 * median:.0f} ms per image")
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(f"ratio: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
