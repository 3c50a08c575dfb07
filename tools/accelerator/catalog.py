"""The measurements in order of value, and the tables that they fill.

Standard library only: the program that starts the measurements must not occupy the accelerator.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

TORCH = ("torch", "transformers")
OFFICIAL = ("torch", "segment_anything")
SAM_SIZES = {"B": "sam_vit_b", "L": "sam_vit_l", "H": "sam_vit_h"}


@dataclasses.dataclass(frozen=True)
class Item:
    """One measurement, which runs in a process of its own.

    Attributes:
      name: Name in the results.
      table: Key of `TABLES`.
      function: "MODULE:FUNCTION" in this package. The function yields rows of the table.
      seconds: Timeout.
      options: Keyword arguments of the function.
      rehearsal: Options that replace some of these in a rehearsal.
      needs: Modules without which the measurement is left out.
    """

    name: str
    table: str
    function: str
    seconds: float
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rehearsal: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
      title: Heading.
      text: Sentences below the heading.
      columns: Column heading -> (key of a row, format of its value).
    """

    title: str
    text: str
    columns: Mapping[str, tuple[str, str]]


SPEED = {
    "TFLOP/s": ("tflops_per_chip", ".3g"),
    "MFU": ("mfu", ".1%"),
    "memory, GiB": ("memory_gib", ".2f"),
    "compiled, s": ("compile_seconds", ".1f"),
}
_TIMES = {"ms": ("ms", ".4g"), "lowest": ("lowest_ms", ".4g")}
_IMAGES = {"batch": ("batch", "d"), **_TIMES, "images/s": ("images_per_second", ".4g"), **SPEED}
_STEP_TEXT = (
    "A step is the forward pass, the backward pass and the optimizer, on one batch that is already "
    "on the device. Memory is that of the whole step with its state."
)
TABLES = {
    "device": Table("Device and versions", "", {"": ("what", ""), "value": ("value", "")}),
    "rates": Table(
        "Rates of the device",
        "A square matrix product, and an array that is read and written once. Rates are in TFLOP/s "
        "for products and GB/s for copies.",
        {
            "operation": ("operation", ""),
            "side": ("side", ""),
            "rate": ("rate", ".4g"),
            "share of the peak": ("mfu", ".1%"),
        },
    ),
    "numerics": Table(
        "Numerics",
        "Each stage gets the float32 inputs of the row `float32, highest`, so errors do not add up "
        "from stage to stage. The relative error is the root mean square of the difference, "
        "divided by that of the float32 result. Weights are random.",
        {
            "model": ("model", ""),
            "stage": ("stage", ""),
            "computed in": ("computed_in", ""),
            "relative error": ("relative_error", ".2e"),
            "largest error": ("largest_error", ".2e"),
        },
    ),
    "encoder": Table(
        "Image encoder of SAM",
        "1024 x 1024 pixels, bfloat16. Memory is what the call adds to the weights and the images. "
        "Aims: an MFU of 45 % for ViT-H and 35 % for ViT-B, below 1.7 GB for ViT-B at batch 8, "
        "and faster than every row of PyTorch.",
        {"model": ("model", ""), "side": ("side", ""), **_IMAGES},
    ),
    "sam_step": Table(
        "Training step of SAM",
        f"{_STEP_TEXT} 11 rounds of simulated prompts for 64 masks per image, bfloat16.",
        {"experiment": ("model", ""), "side": ("side", ""), **_IMAGES},
    ),
    "mae_step": Table(
        "Training step of a MAE",
        f"{_STEP_TEXT} bfloat16. Aim: an MFU of 45 % for ViT-L and ViT-H. PyTorch's memory is the "
        "highest that its allocator has given out.",
        {"experiment": ("model", ""), "side": ("side", ""), **_IMAGES},
    ),
    "detector_step": Table(
        "Training step of Mask R-CNN",
        f"{_STEP_TEXT} R50-FPN, 800 x 1344 pixels, bfloat16. Aim: 40 images per second.",
        {"experiment": ("model", ""), "side": ("side", ""), **_IMAGES},
    ),
    "detector": Table(
        "Inference of Mask R-CNN",
        "R50-FPN, 800 x 1344 pixels, bfloat16, from images to boxes and masks of 28 x 28.",
        {"model": ("model", ""), "side": ("side", ""), **_IMAGES},
    ),
    "decoder": Table(
        "Mask decoder of SAM",
        "Prompts of one click each on one image, bfloat16.",
        {
            "prompts": ("prompts", "d"),
            "side": ("side", ""),
            **_TIMES,
            "prompts/s": ("prompts_per_second", ".4g"),
            "memory, GiB": ("memory_gib", ".2f"),
        },
    ),
    "everything": Table(
        "Segment everything",
        "32 x 32 points on an image of 480 x 640. Random weights give large, ragged masks.",
        {
            "model": ("model", ""),
            "side": ("side", ""),
            "seconds": ("seconds", ".3g"),
            "masks": ("masks", "d"),
        },
    ),
    "latency": Table(
        "Interactive latency",
        "`SamPredictor` on an image of 1080 x 1920, from NumPy to NumPy, bfloat16.",
        {
            "model": ("model", ""),
            "call": ("call", ""),
            "median, ms": ("ms", ".4g"),
            "95th percentile, ms": ("p95_ms", ".4g"),
        },
    ),
    "finetune": Table(
        "Fine-tuning presets",
        f"{_STEP_TEXT} The experiment `sam/finetune` as it comes, but without published weights.",
        {
            "preset": ("model", ""),
            "batch": ("batch", "d"),
            **_TIMES,
            "steps/s": ("steps_per_second", ".3g"),
            "memory, GiB": ("memory_gib", ".2f"),
            "compiled, s": ("compile_seconds", ".1f"),
        },
    ),
}


def list_items() -> list[Item]:
    """Lists the measurements, the most valuable first."""
    return [
        Item("device", "device", "device:describe", 90),
        Item("rates", "rates", "device:measure_rates", 90, dict(width=8192, mib=2048), _SMALL),
        Item("numerics", "numerics", "numerics:measure", 240, dict(sizes="vit_b"), _DEBUG),
        _encoder("B"),
        *_torch_encoders("B"),
        _train("sam_step", "sam/sa1b_vit_b", 300, ["--config.batch_size=8"]),
        _train("mae_step", "mae/imagenet_l", 120, ["--config.batch_size=256"]),
        _torch_mae("L", 256),
        _encoder("H"),
        *_torch_encoders("H"),
        _train("detector_step", "mask_rcnn/coco_r50_fpn_1x", 240, _COCO),
        Item("Mask R-CNN step, PyTorch", "detector_step", "torch_training:train_detector", 180,
             dict(batch=16), needs=("torch", "torchvision"), rehearsal=_TORCH_DEBUG),
        _train("mae_step", "mae/imagenet_h", 180, ["--config.batch_size=128"]),
        _torch_mae("H", 128),
        Item("decoder, segjax", "decoder", "inference:decode", 180, _PROMPTS, _FEW_PROMPTS),
        Item("decoder, PyTorch", "decoder", "torch_sam:decode", 180,
             _PROMPTS, _FEW_PROMPTS, OFFICIAL),
        Item("latency", "latency", "inference:interact", 180,
             dict(names=["sam_vit_b", "sam_vit_h"]), dict(names=["sam_debug"], calls=3)),
        Item("everything, segjax", "everything", "inference:segment_everything", 180,
             dict(name="sam_vit_b"), dict(name="sam_debug", points=2)),
        Item("everything, PyTorch", "everything", "torch_sam:segment_everything", 180,
             dict(name="sam_vit_b"), dict(name="sam_debug", points=2), OFFICIAL),
        _train("mae_step", "mae/imagenet_b", 120, ["--config.batch_size=256"]),
        _torch_mae("B", 256),
        _encoder("L"),
        *_torch_encoders("L"),
        Item("Mask R-CNN inference, segjax", "detector", "inference:detect", 180,
             dict(name="mask_rcnn_R_50_FPN", canvas=[800, 1344]),
             dict(name="maskrcnn_debug", canvas=[64, 64], batches=[1])),
        Item("Mask R-CNN inference, PyTorch", "detector", "torch_training:detect", 120,
             dict(batches=[1, 8]), dict(batches=[1], canvas=[64, 64]), ("torch", "torchvision")),
        *(_finetune(preset) for preset in ("decoder", "lora", "late", "full", "medsam", "samed")),
        _train("sam_step", "sam/sa1b_vit_l", 300, ["--config.batch_size=4"]),
        _train("sam_step", "sam/sa1b_vit_h", 300, ["--config.batch_size=4"]),
    ]  # fmt: skip


def list_tables_of(items: list[Item]) -> Iterator[tuple[str, list[Item]]]:
    """Yields each table with its measurements."""
    for table in TABLES:
        yield table, [item for item in items if item.table == table]


_SMALL = dict(width=64, mib=1)
_DEBUG = dict(sizes="debug")
_DEBUG_STEPS = {
    "sam_step": "sam/sa1b_vit_b:debug",
    "mae_step": "mae/imagenet_b:debug",
    "detector_step": "mask_rcnn/coco_r50_fpn_1x:debug",
}
_PROMPTS = dict(name="sam_vit_b", counts=[1, 16, 64, 256])
_FEW_PROMPTS = dict(name="sam_debug", counts=[1, 2])
_TORCH_DEBUG = dict(batch=1, canvas=[64, 64])
_COCO = [
    "--config.batch_size=16",
    "--config.model.dtype=bfloat16",
    "--config.data.canvas=(800,1344)",
    "--config.data.by_orientation=False",
    "--config.data.augment.short_sides=()",
]


def _encoder(size: str) -> Item:
    options = dict(name=SAM_SIZES[size], batches=[1, 8])
    small = dict(name="sam_debug", batches=[1, 2])
    return Item(f"encoder {size}, segjax", "encoder", "inference:encode", 180, options, small)


def _torch_encoders(size: str) -> list[Item]:
    """The compiled reference comes first: it is the one to be ahead of."""
    name = SAM_SIZES[size]
    small = dict(name="sam_debug", batches=[1, 2])
    return [
        Item(f"encoder {size}, PyTorch {side}", "encoder", "torch_sam:encode", 180,
             dict(name=name, batches=[1, 8], side=side), small, TORCH)
        for side in ("compiled", "sdpa", "eager")
    ]  # fmt: skip


def _train(table: str, experiment: str, seconds: float, flags: list[str]) -> Item:
    options = dict(experiment=experiment, flags=[*flags, "--config.mesh.fsdp=1"])
    options["attention"] = table != "detector_step"
    small = dict(experiment=_DEBUG_STEPS[table], flags=[], steps=2)
    return Item(f"step of {experiment}", table, "training:train", seconds, options, small)


def _torch_mae(size: str, batch: int) -> Item:
    options = dict(name=f"mae_vit_{size.lower()}", batch=batch)
    small = dict(name="mae_debug", batch=2)
    return Item(
        f"step of MAE {size}, PyTorch",
        "mae_step",
        "torch_training:train_mae",
        240,
        options,
        small,
        TORCH,
    )


def _finetune(preset: str) -> Item:
    options = dict(experiment=f"sam/finetune:{preset}", flags=[])
    small = dict(experiment="sam/finetune:debug", steps=2)
    return Item(f"fine-tuning, {preset}", "finetune", "training:train", 150, options, small)
