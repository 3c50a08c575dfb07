"""Inference of segjax: SAM's encoder, decoder, masks of everything and clicks, and a detector."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from benchmark import generator_options
from golden.drawn_weights import drawn_variables

import segjax
from accelerator.batches import draw_images, draw_variables
from accelerator.timing import GIB, attempt_each, describe_rate, time_call
from segjax.inference.detection.postprocess import detect_on_canvas
from segjax.inference.sam.jitted import decode_prompts, encode_canvases
from segjax.models.build import init_model
from segjax.models.detection.build import build_mask_rcnn
from segjax.models.detection.flops import count_detector_multiply_adds
from segjax.models.sam.build import build_sam
from segjax.models.sam.flops import count_encoder_multiply_adds
from segjax.models.sam.prompt_encoder import Prompts


def list_attentions() -> tuple[str, ...]:
    """Lists the implementations of attention that the device runs, the fused one first."""
    fused = {"gpu": ("cudnn",), "tpu": ("pallas",)}
    return (*fused.get(jax.default_backend(), ()), "xla")


def measure_program(function: Callable, *arguments: Any) -> dict[str, float]:
    """Compiles a jitted function and times it.

    Args:
      function: The function, from `jax.jit`.
      *arguments: Its arguments. Static ones come first and are not arrays.

    Returns:
      Times, the seconds of the compilation, and the GiB that a call adds to its arguments.
    """
    began = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    seconds = time.perf_counter() - began
    arrays = [argument for argument in arguments if not hasattr(argument, "apply")]
    memory = compiled.memory_analysis()
    added = memory.temp_size_in_bytes + memory.output_size_in_bytes
    pipelined = jax.default_backend() != "cpu"
    times = time_call(lambda: compiled(*arrays), jax.block_until_ready, pipelined=pipelined)
    return times | {"compile_seconds": seconds, "memory_gib": added / GIB}


def encode(name: str, batches: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yields the speed of SAM's image encoder per attention and batch.

    Args:
      name: Name of the SAM.
      batches: Images of a call.
    """
    model = build_sam(name, dtype="bfloat16")
    variables = jax.device_put(draw_variables(model, init_model))
    flops = 2 * count_encoder_multiply_adds(model)
    kind = jax.devices()[0].device_kind

    def measure(key: tuple[str, int]) -> dict[str, float]:
        attention, batch = key
        images = jax.device_put(draw_images(batch, model.canvas, model.canvas))
        sizes = jax.device_put(np.full((batch, 2), model.canvas, np.int32))
        tuned = model.clone(attention=attention)
        times = measure_program(encode_canvases, tuned, variables, images, sizes)
        return times | describe_rate(times, batch, flops, kind)

    yield from attempt_each(
        {
            (attention, batch): dict(model=name, side=f"segjax, {attention}", batch=batch)
            for attention in list_attentions()
            for batch in batches
        },
        measure,
    )


def decode(name: str, counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yields the speed of SAM's mask decoder per number of prompts.

    Args:
      name: Name of the SAM.
      counts: Numbers of prompts.
    """
    model = build_sam(name, dtype="bfloat16")
    variables = jax.device_put(draw_variables(model, init_model))
    side = model.canvas // model.patch
    embedding = jax.device_put(draw_embedding(side, model.prompt_width).astype(model.dtype))

    def measure(count: int) -> dict[str, float]:
        points = jax.device_put(draw_clicks(count, model.canvas)[None, :, None])
        prompts = Prompts(points=points, labels=jax.device_put(np.ones((1, count, 1), np.int32)))
        times = measure_program(decode_prompts, model, variables, [embedding], prompts)
        return times | {"prompts_per_second": count / (times["ms"] / 1e3)}

    yield from attempt_each({n: dict(prompts=n, side="segjax") for n in counts}, measure)


def segment_everything(name: str, points: int = 32) -> Iterator[dict[str, Any]]:
    """Yields the seconds of `SamAutomaticMaskGenerator`, after a call that compiles.

    Args:
      name: Name of the SAM.
      points: Points along each side of the image.
    """

    def measure(dtype: str) -> dict[str, float]:
        model = build_sam(name, dtype=dtype)
        generator = segjax.SamAutomaticMaskGenerator(
            model,
            drawn_variables(model, init_model),
            **generator_options(points),
        )
        return time_everything(generator.generate)

    rows = {dtype: dict(model=name, side=f"segjax, {dtype}") for dtype in ("bfloat16", "float32")}
    yield from attempt_each(rows, measure)


def time_everything(generate: Callable[[np.ndarray], list]) -> dict[str, float]:
    """Returns the seconds and the number of masks of the second call of a generator."""
    image = draw_images(1, 480, 640)[0]
    generate(image)
    began = time.perf_counter()
    masks = generate(image)
    return {"seconds": time.perf_counter() - began, "masks": len(masks)}


def interact(names: Sequence[str], calls: int = 50) -> Iterator[dict[str, Any]]:
    """Yields the latency of the calls of `SamPredictor`.

    Args:
      names: Names of the SAMs.
      calls: Number of clicks that are measured.
    """
    image = draw_images(1, 1080, 1920)[0]
    for name in names:
        model = build_sam(name, dtype="bfloat16")
        predictor = segjax.SamPredictor(model, draw_variables(model, init_model))
        clicks = draw_clicks(calls, 1080)

        def click(number: int, predictor: Any = predictor, clicks: np.ndarray = clicks) -> None:
            predictor.predict(point_coords=clicks[number % len(clicks)][None], point_labels=[1])

        rows = {
            "image": dict(model=name, call="set_image"),
            "click": dict(model=name, call="predict, one click"),
        }
        run = {"image": lambda _, predictor=predictor: predictor.set_image(image), "click": click}
        yield from attempt_each(
            rows,
            lambda key, run=run: measure_latency(run[key], calls if key == "click" else 5),
        )


def measure_latency(call: Callable[[int], Any], calls: int) -> dict[str, float]:
    """Times calls one by one, after two that warm up."""
    seconds = []
    for number in range(calls + 2):
        began = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - began)
    median, high = np.percentile(seconds[2:], (50, 95))
    return {"ms": 1e3 * float(median), "p95_ms": 1e3 * float(high)}


def detect(
    name: str, canvas: Sequence[int], batches: Sequence[int] = (1, 8)
) -> Iterator[dict[str, Any]]:
    """Yields the speed of a detector on full canvases.

    Args:
      name: Name of the detector.
      canvas: (height, width) in pixels.
      batches: Images of a call.
    """
    model = build_mask_rcnn(name, dtype="bfloat16")
    variables = jax.device_put(draw_variables(model, init_model))
    counts = count_detector_multiply_adds(model, tuple(canvas))
    regions, slots = model.proposal_selection.after[1], model.detection_selection.count
    flops = 2 * (counts.frozen + counts.image + regions * counts.region + slots * counts.foreground)
    kind = jax.devices()[0].device_kind

    def measure(batch: int) -> dict[str, float]:
        images = jax.device_put(draw_images(batch, *canvas))
        sizes = jax.device_put(np.tile(np.array(canvas, np.int32), (batch, 1)))
        program = jax.jit(functools.partial(detect_on_canvas, model))
        times = measure_program(program, variables, images, sizes)
        return times | describe_rate(times, batch, flops, kind)

    rows = {batch: dict(model=name, side="segjax", batch=batch) for batch in batches}
    yield from attempt_each(rows, measure)


def draw_embedding(side: int, width: int) -> np.ndarray:
    """Draws an image embedding, float32 [1, side, side, width]."""
    return np.random.default_rng(1).standard_normal((1, side, side, width), np.float32)


def draw_clicks(count: int, side: int) -> np.ndarray:
    """Draws points (x, y) in a square, float32 [count, 2]."""
    return np.random.default_rng(2).uniform(0, side - 1, (count, 2)).astype(np.float32)
