"""SAM in PyTorch: transformers' model with its attentions, and segment-anything."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from benchmark import generator_options
from golden.drawn_weights import drawn_variables
from parity.sam_references import SegmentAnything, Transformers
from parity.stand_ins import segment_anything

from accelerator.batches import draw_variables
from accelerator.inference import draw_clicks, draw_embedding, time_everything
from accelerator.timing import attempt_each
from accelerator.torch_sides import choose_device, keep_jax_off_the_device, measure_call
from segjax.models.build import init_model
from segjax.models.sam.build import build_sam
from segjax.models.sam.flops import count_encoder_multiply_adds


def encode(name: str, batches: Sequence[int], side: str) -> Iterator[dict[str, Any]]:
    """Yields the speed of the image encoder per batch.

    Args:
      name: Name of the SAM.
      batches: Images of a call.
      side: "eager" or "sdpa", the attentions of transformers, or "compiled", which is "sdpa" under
        torch.compile.
    """
    keep_jax_off_the_device()
    model = build_sam(name)
    variables = draw_variables(model, init_model)
    attention = "eager" if side == "eager" else "sdpa"
    sam = Transformers(model, variables, attention).sam
    encoder = sam.vision_encoder.to(choose_device(), torch.bfloat16)
    run = torch.compile(encoder, dynamic=False) if side == "compiled" else encoder
    flops = 2 * count_encoder_multiply_adds(model)

    @torch.inference_mode()
    def measure(batch: int) -> dict[str, float]:
        shape = (batch, 3, model.canvas, model.canvas)
        pixels = torch.randn(shape, device=choose_device(), dtype=torch.bfloat16)
        return measure_call(lambda: run(pixels).last_hidden_state, batch, flops)

    rows = {batch: dict(model=name, side=f"transformers, {side}", batch=batch) for batch in batches}
    yield from attempt_each(rows, measure)


def decode(name: str, counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yields the speed of segment-anything's decoder per number of prompts, eager and compiled.

    Args:
      name: Name of the SAM.
      counts: Numbers of prompts.
    """
    keep_jax_off_the_device()
    model, sam = _build_official(name)
    # The prompt encoder computes positions in float32, and does not run in bfloat16.
    sam.mask_decoder.to(torch.bfloat16)
    place = lambda array: torch.from_numpy(array).to(choose_device())
    side = model.canvas // model.patch
    embedding = place(np.moveaxis(draw_embedding(side, model.prompt_width), -1, 1).copy())
    embedding = embedding.bfloat16()
    predict = sam.mask_decoder.predict_masks
    runs = {"eager": predict, "compiled": torch.compile(predict, dynamic=False)}

    @torch.inference_mode()
    def measure(key: tuple[str, int]) -> dict[str, float]:
        kind, count = key
        points = place(draw_clicks(count, model.canvas)[:, None])
        labels = torch.ones(count, 1, device=choose_device())

        def run() -> Any:
            tokens, dense = sam.prompt_encoder((points, labels), None, None)
            return runs[kind](
                image_embeddings=embedding, image_pe=sam.prompt_encoder.get_dense_pe().bfloat16(),
                sparse_prompt_embeddings=tokens.bfloat16(),
                dense_prompt_embeddings=dense.bfloat16(),
            )  # fmt: skip

        row = measure_call(run, count, 0)
        return row | {"prompts_per_second": row["images_per_second"]}

    yield from attempt_each(
        {
            (kind, count): dict(prompts=count, side=f"segment-anything, {kind}")
            for kind in runs
            for count in counts
        },
        measure,
    )


def segment_everything(name: str, points: int = 32) -> Iterator[dict[str, Any]]:
    """Yields the seconds of segment-anything's generator, after a call that warms up.

    Args:
      name: Name of the SAM.
      points: Points along each side of the image.
    """
    keep_jax_off_the_device()
    torch.set_float32_matmul_precision("high")  # TF32, as jax has it by default
    model = build_sam(name)
    sam = SegmentAnything(model, drawn_variables(model, init_model)).sam.to(choose_device())
    generator = segment_anything().SamAutomaticMaskGenerator(sam, **generator_options(points))
    measure: Callable = lambda _: time_everything(generator.generate)
    yield from attempt_each({"": dict(model=name, side="segment-anything, float32")}, measure)


def _build_official(name: str) -> tuple[Any, Any]:
    """Builds segment-anything's model on the device, and returns segjax's and it."""
    model = build_sam(name)
    sam = SegmentAnything(model, draw_variables(model, init_model)).sam
    return model, sam.to(choose_device())
