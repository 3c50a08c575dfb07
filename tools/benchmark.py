"""Compares SAM with its PyTorch reference on this machine, in time and memory.

    .venv/bin/pip install -e .[parity]      # installs the reference
    .venv/bin/python tools/benchmark.py sam
    .venv/bin/python tools/benchmark.py sam --parts everything --points-per-side 16 \\
      --sides segjax compiled
    .venv/bin/python tools/benchmark.py memory  # segment everything at 4480 x 6720, segjax alone
    .venv/bin/python tools/benchmark.py mae     # a training step of a MAE, see benchmark_mae.py
    .venv/bin/python tools/benchmark.py loader  # images for one, see benchmark_loader.py

Parts are a matrix product, the image encoder, the mask decoder, and segmenting everything. Each
side is a process with the same drawn weights. They take turns, one call each, while the others
sleep. Every number is a median (lowest in brackets). Peak memory is the memory that a call adds.
"""

import argparse
import contextlib
import pathlib
import sys
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
from turns import (
    Worker,
    format_table_head,
    format_table_row,
    read_peak,
    reset_peak,
    run_in_turn,
)

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
SIDES = ("segjax", "eager", "compiled")
PARTS = ("matmul", "encoder", "decoder", "everything")


def main() -> None:
    """Runs the benchmark that the command line names and prints its table."""
    if sys.argv[1:2] == ["loader"]:
        import benchmark_loader

        return benchmark_loader.main(sys.argv[2:])
    if sys.argv[1:2] == ["mae"]:
        import benchmark_mae

        return benchmark_mae.main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", choices=("sam", "memory"))
    parser.add_argument("--model", default="sam_vit_b")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--points-per-side", type=int, default=32)
    args = parser.parse_args()
    if args.benchmark == "memory":
        return print_memory(args.model, args.points_per_side)
    # One process per side
    print(format_table_head(args.sides))
    options = dict(model=args.model, points_per_side=args.points_per_side)
    workers = [Worker(make_parts, side, options) for side in args.sides]
    rates = []
    for part, repeats in list_tasks(args.parts, args.repeats):
        peaks, times = run_in_turn(workers, part, repeats)
        print(format_table_row(part, peaks, times), flush=True)
        # Share of the rate of the matrix product
        medians = [np.median(seconds) for seconds in times]
        flops = 2 * count_multiply_adds(part, args.model)
        if part == "matmul":
            rates = [flops / median for median in medians]
        elif flops and rates:
            shares = " | | ".join(
                f"{flops / median / rate:.0%}" for median, rate in zip(medians, rates, strict=True)
            )
            print(f"| share of matmul's rate, for {flops:.2e} flops | {shares} | | |")


def list_tasks(parts: tuple[str, ...], repeats: int) -> list[tuple[str, int]]:
    """Lists the measurements: name, and number of measured calls after the first one."""
    expanded = {
        "matmul": [("matmul", 3 * repeats)],
        "encoder": [("encoder", repeats)],
        "decoder": [
            ("decoder 1", 4 * repeats),
            ("decoder 16", repeats),
            ("decoder 64", min(repeats, 3)),
        ],
        "everything": [("everything", 1), ("everything but the network", 1)],
    }
    return [task for part in parts for task in expanded[part]]


def count_multiply_adds(part: str, model: str) -> float:
    """Counts the multiply-adds of a part of the reference. 0: unknown."""
    from segjax.models.sam.build import build_sam
    from segjax.models.sam.flops import count_decoder_multiply_adds, count_encoder_multiply_adds

    kind, _, number = part.partition(" ")
    counts = {
        "matmul": lambda: 4096**3,
        "encoder": lambda: count_encoder_multiply_adds(build_sam(model)),
    }
    counts["decoder"] = lambda: (
        int(number) * count_decoder_multiply_adds(build_sam(model), tokens=2)
    )
    return counts.get(kind, lambda: 0)()


def make_parts(side: str, model: str, points_per_side: int) -> dict[str, Callable]:
    """Makes the functions that a side runs, by name."""
    if side == "segjax":
        return make_segjax_parts(model, points_per_side)
    return make_reference_parts(model, points_per_side, compiled=side == "compiled")


def make_segjax_parts(name: str, points_per_side: int) -> dict[str, Callable]:
    """Makes segjax's side."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    from golden.drawn_weights import drawn_variables

    import segjax
    from segjax.inference.sam import automatic, candidates, jitted
    from segjax.models.sam.build import build_sam, init_sam
    from segjax.models.sam.prompt_encoder import Prompts

    model = build_sam(name)
    variables = jax.device_put(drawn_variables(model, init_sam))
    image = photograph((model.canvas, model.canvas))
    square = jax.device_put(np.random.default_rng(0).standard_normal((4096, 4096), np.float32))
    product = jax.jit(lambda a: a @ a)
    side = model.canvas // model.patch
    embedding = jax.device_put(noise((1, side, side, model.prompt_width)))

    # Mask decoder on several clicks
    def decode(count):
        points = clicks(count, model.canvas)[None, :, None]
        prompts = Prompts(points=points, labels=np.ones((1, count, 1), np.int32))
        return lambda: jax.block_until_ready(
            jitted.decode_prompts(model, variables, [embedding], prompts)
        )

    # Segmenting everything, with and without the network
    generator = segjax.SamAutomaticMaskGenerator(
        model, variables, **generator_options(points_per_side)
    )
    generate = lambda: generator.generate(photograph((480, 640)))
    return {
        "matmul": lambda: product(square).block_until_ready(),
        "encoder": lambda: jax.block_until_ready(jitted.encode_images(model, variables, [image])),
        "everything": generate,
        "everything but the network": with_cached_networks(
            generate, (automatic, "encode_images"), (candidates, "decode_prompts")
        ),
    } | {f"decoder {count}": decode(count) for count in (1, 16, 64)}


def make_reference_parts(name: str, points_per_side: int, compiled: bool) -> dict[str, Callable]:
    """Makes the side of segment-anything, perhaps under torch.compile."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    import torch
    from golden.drawn_weights import drawn_variables
    from parity.sam_references import SegmentAnything
    from parity.stand_ins import segment_anything

    from segjax.models.sam.build import build_sam, init_sam

    model = build_sam(name)
    sam = SegmentAnything(model, drawn_variables(model, init_sam)).sam
    if compiled:
        sam.image_encoder.forward = torch.compile(sam.image_encoder.forward)
        sam.mask_decoder.predict_masks = torch.compile(
            sam.mask_decoder.predict_masks, dynamic=False
        )
    image = torch.from_numpy(photograph((model.canvas, model.canvas))).permute(2, 0, 1)[None]
    square = torch.randn(4096, 4096)
    side = model.canvas // model.patch
    embedding = torch.from_numpy(noise((1, model.prompt_width, side, side)))

    def decode(count):
        points = torch.from_numpy(clicks(count, model.canvas))[:, None]

        def run():
            tokens, dense = sam.prompt_encoder((points, torch.ones(count, 1)), None, None)
            return sam.mask_decoder.predict_masks(
                image_embeddings=embedding, image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=tokens, dense_prompt_embeddings=dense,
            )  # fmt: skip

        return run

    generator = segment_anything().SamAutomaticMaskGenerator(
        sam, **generator_options(points_per_side)
    )
    generate = lambda: generator.generate(photograph((480, 640)))
    parts = {
        "matmul": lambda: square @ square,
        "encoder": lambda: sam.image_encoder(sam.preprocess(image)),
        "everything": generate,
        "everything but the network": with_cached_networks(
            generate, (sam.image_encoder, "forward"), (sam.mask_decoder, "forward")
        ),
    } | {f"decoder {count}": decode(count) for count in (1, 16, 64)}
    return {part: torch.inference_mode()(run) for part, run in parts.items()}


def with_cached_networks(run: Callable, *networks: tuple[object, str]) -> Callable:
    """Returns a function that runs `run` with networks that repeat their first output.

    What remains is the time outside of the networks. The outputs for other prompts would be other
    masks of the same number of pixels.

    Args:
      run: The function.
      networks: Owner and attribute of each network.
    """
    outputs: dict[tuple[int, str], object] = {}

    def cached(name: tuple[int, str], network: Callable) -> Callable:
        def call(*args, **options):
            if name not in outputs:
                outputs[name] = network(*args, **options)
            return outputs[name]

        return call

    def run_rest():
        with contextlib.ExitStack() as stack:
            for owner, name in networks:
                stack.enter_context(
                    mock.patch.object(owner, name, cached((id(owner), name), getattr(owner, name)))
                )
            run()

    return run_rest


def print_memory(name: str, points_per_side: int) -> None:
    """Prints the memory that segmenting everything needs on an image of 30 megapixels."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    import segjax
    from segjax.inference.sam import jitted

    from golden.drawn_weights import drawn_variables  # isort: skip
    from segjax.models.sam.build import build_sam, init_sam

    model = build_sam(name)
    generator = segjax.SamAutomaticMaskGenerator(
        model,
        drawn_variables(model, init_sam),
        **generator_options(points_per_side) | dict(output_mode="coco_rle"),
    )
    image = photograph((4480, 6720))
    # The encoder alone
    held = reset_peak()
    contents = jitted.resize_to_canvas([image], model.canvas)
    jitted.encode_images(model, generator.variables, contents)
    print(f"encoder: {read_peak() - held:.0f} MiB beyond {held:.0f}", flush=True)
    # Segmenting everything
    held, began = reset_peak(), time.perf_counter()
    records = generator.generate(image)
    candidates = 3 * points_per_side**2
    print(
        f"everything, encoder included: {read_peak() - held:.0f} MiB beyond {held:.0f}, "
        f"{len(records)} records of {candidates} candidates, "
        f"{time.perf_counter() - began:.0f} s"
    )
    full = 192 * 4480 * 6720 * 4 / 2**20
    print(f"192 of {candidates} candidates as float32 at full size: {full:.0f} MiB")


def generator_options(points_per_side: int) -> dict:
    """Returns the arguments of both generators.

    Drawn weights predict noise: about one in twenty IoUs of ViT-B exceeds 1.62.
    """
    return dict(
        points_per_side=points_per_side,
        pred_iou_thresh=1.62,
        stability_score_thresh=0.0,
        box_nms_thresh=1.0,
        stability_score_offset=0.1,
    )


def photograph(hw: tuple[int, int]) -> np.ndarray:
    """Returns a photograph, resized to (height, width)."""
    from PIL import Image
    from skimage import data

    return np.asarray(Image.fromarray(data.astronaut()).resize(hw[::-1]))


def noise(shape: tuple[int, ...]) -> np.ndarray:
    """Draws standard normal float32 noise."""
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def clicks(count: int, canvas: int) -> np.ndarray:
    """Draws points (x, y) on a canvas, float32 [count, 2]."""
    return np.random.default_rng(2).uniform(0, canvas - 1, (count, 2)).astype(np.float32)


if __name__ == "__main__":
    main()
