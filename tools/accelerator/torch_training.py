"""Training in PyTorch: transformers' MAE, and torchvision's Mask R-CNN, which detects here too."""

from collections.abc import Iterator, Sequence
from typing import Any

import benchmark_mae
import numpy as np
import torch

from accelerator.batches import draw_images
from accelerator.timing import attempt_each
from accelerator.torch_sides import choose_device, keep_jax_off_the_device, measure_call

_OBJECTS = 8  # of an image, as in segjax's batches
_CLASSES = 81  # with the background


def train_mae(name: str, batch: int) -> Iterator[dict[str, Any]]:
    """Yields the speed of a training step of transformers' ViTMAEForPreTraining.

    Args:
      name: Name of the MAE.
      batch: Images of a step.
    """
    from segjax.models.flops import TRAINING, count_mae_multiply_adds
    from segjax.models.mae import build_mae

    keep_jax_off_the_device()
    flops = 2 * TRAINING * sum(count_mae_multiply_adds(build_mae(name)))
    platform = {"cuda": "gpu", "cpu": "cpu"}[choose_device()]

    def measure(side: str) -> dict[str, float]:
        parts = benchmark_mae.make_reference_parts(
            side, model=name, batch=batch, dtype="bfloat16", platform=platform
        )
        return measure_call(parts["step"], batch, flops, added=False)

    rows = {
        side: dict(model=name, side=f"transformers, {side}", batch=batch)
        for side in ("compiled", "sdpa")
    }
    yield from attempt_each(rows, measure)


def train_detector(batch: int, canvas: Sequence[int] = (800, 1344)) -> Iterator[dict[str, Any]]:
    """Yields the speed of a training step of torchvision's maskrcnn_resnet50_fpn.

    Args:
      batch: Images of a step.
      canvas: (height, width) of the images in pixels.
    """
    keep_jax_off_the_device()
    detector = build_detector(canvas).train()
    parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=1e-4)
    images, targets = make_images(batch, canvas), [make_target(canvas) for _ in range(batch)]

    def step() -> None:
        with torch.autocast(choose_device(), torch.bfloat16):
            loss = sum(detector(images, targets).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    row = dict(model="maskrcnn_resnet50_fpn", side="torchvision, eager", batch=batch)
    yield from attempt_each({"": row}, lambda _: measure_call(step, batch, 0, added=False))


def detect(batches: Sequence[int], canvas: Sequence[int] = (800, 1344)) -> Iterator[dict[str, Any]]:
    """Yields the speed of torchvision's maskrcnn_resnet50_fpn, with its masks in the images.

    Args:
      batches: Images of a call.
      canvas: (height, width) of the images in pixels.
    """
    keep_jax_off_the_device()
    detector = build_detector(canvas).eval()

    @torch.inference_mode()
    def measure(count: int) -> dict[str, float]:
        images = make_images(count, canvas)

        def run() -> Any:
            with torch.autocast(choose_device(), torch.bfloat16):
                return detector(images)

        return measure_call(run, count, 0)

    name = "maskrcnn_resnet50_fpn"
    rows = {n: dict(model=name, side="torchvision, eager", batch=n) for n in batches}
    yield from attempt_each(rows, measure)


def build_detector(canvas: Sequence[int]) -> Any:
    """Builds torchvision's Mask R-CNN on the device, without weights of a file."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    size = dict(min_size=min(canvas), max_size=max(canvas))
    detector = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=_CLASSES, **size
    )
    return detector.to(choose_device())


def make_images(batch: int, canvas: Sequence[int]) -> list[torch.Tensor]:
    """Makes images [3, H, W] in 0..1 on the device."""
    images = torch.from_numpy(draw_images(batch, *canvas)).to(choose_device())
    return list(images.permute(0, 3, 1, 2).float() / 255)


def make_target(canvas: Sequence[int]) -> dict[str, torch.Tensor]:
    """Makes the ground truth of an image: rectangles with full masks."""
    rng = np.random.default_rng(0)
    side = rng.uniform(min(canvas) / 16, min(canvas) / 4, (_OBJECTS, 1))
    corner = rng.uniform(0, np.array(canvas[::-1]) - side, (_OBJECTS, 2))
    boxes = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
    masks = np.zeros((_OBJECTS, *canvas), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top : bottom + 1, left : right + 1] = 1
    target = {"boxes": boxes, "labels": rng.integers(1, 6, _OBJECTS), "masks": masks}
    return {name: torch.from_numpy(array).to(choose_device()) for name, array in target.items()}
