"""SAM beside its PyTorch reference on this machine: encoder, decoder and segment-everything, time and memory.

    .venv/bin/pip install -e .[parity]      # brings the reference
    .venv/bin/python tools/benchmark.py sam
    .venv/bin/python tools/benchmark.py sam --parts everything --points-per-side 16 --sides segjax compiled
    .venv/bin/python tools/benchmark.py memory          # segment everything at 4480 x 6720, ours alone
    .venv/bin/python tools/benchmark.py mae             # a training step of a masked autoencoder, see benchmark_mae.py
    .venv/bin/python tools/benchmark.py loader          # pictures for one, see benchmark_loader.py

Each side is a process of its own with the same drawn weights; they take turns, one call each, while the others sleep.
Every figure is a median (lowest in brackets); peak memory is what a call adds to what its process held before.
"""

import argparse
import contextlib
import pathlib
import sys
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
from turns import Worker, in_turn, peak, reset_peak, table_head, table_row

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
SIDES = ("segjax", "eager", "compiled")
PARTS = ("matmul", "encoder", "decoder", "everything")


def main() -> None:
    if sys.argv[1:2] == ["loader"]:
        import benchmark_loader

        return benchmark_loader.main(sys.argv[2:])
    if sys.argv[1:2] == ["mae"]:
        import benchmark_mae

        return benchmark_mae.main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("sam", "memory"))
    parser.add_argument("--model", default="sam_vit_b")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--points-per-side", type=int, default=32)
    args = parser.parse_args()
    if args.what == "memory":
        return memory(args.model, args.points_per_side)
    print(table_head(args.sides))
    options = dict(model=args.model, points_per_side=args.points_per_side)
    workers = [Worker(parts_of, side, options) for side in args.sides]
    rates = []
    for part, repeats in tasks(args.parts, args.repeats):
        peaks, times = in_turn(workers, part, repeats)
        print(table_row(part, peaks, times), flush=True)
        medians = [np.median(taken) for taken in times]
        operations = 2 * multiply_adds(part, args.model)
        if part == "matmul":
            rates = [operations / m for m in medians]
        elif operations and rates:
            shares = " | | ".join(
                f"{operations / m / rate:.0%}" for m, rate in zip(medians, rates, strict=True)
            )
            print(f"| share of matmul's rate, for {operations:.2e} operations | {shares} | | |")


def tasks(parts: tuple[str, ...], repeats: int) -> list[tuple[str, int]]:
    """(name, counted repeats after the first call) of what is measured."""
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


def multiply_adds(part: str, model: str) -> float:
    """As the reference computes it; 0 where nothing is counted."""
    from segjax.models.sam.build import build_sam
    from segjax.models.sam.flops import count_decoder_multiply_adds, count_encoder_multiply_adds

    kind, _, number = part.partition(" ")
    counts = {"matmul": lambda: 4096**3, "encoder": lambda: count_encoder_multiply_adds(build_sam(model))}
    counts["decoder"] = lambda: int(number) * count_decoder_multiply_adds(build_sam(model), tokens=2)
    return counts.get(kind, lambda: 0)()


def parts_of(side: str, model: str, points_per_side: int) -> dict[str, Callable]:
    return (ours if side == "segjax" else theirs)(model, points_per_side, side == "compiled")


def ours(name: str, points_per_side: int, compiled: bool) -> dict[str, Callable]:
    import jax

    jax.config.update("jax_platforms", "cpu")
    from golden.drawn_weights import drawn_variables

    import segjax
    from segjax.inference.sam import automatic, candidates, jitted
    from segjax.models.sam.build import build_sam, init_sam
    from segjax.models.sam.prompt_encoder import Prompts

    model = build_sam(name)
    variables = jax.device_put(drawn_variables(model, init_sam))
    picture = photograph((model.canvas, model.canvas))
    square = jax.device_put(np.random.default_rng(0).standard_normal((4096, 4096), np.float32))
    product = jax.jit(lambda a: a @ a)
    side = model.canvas // model.patch
    embedding = jax.device_put(noise((1, side, side, model.prompt_width)))

    def decode(count):
        points = clicks(count, model.canvas)[None, :, None]
        prompts = Prompts(points=points, labels=np.ones((1, count, 1), np.int32))
        return lambda: jax.block_until_ready(jitted.decode_prompts(model, variables, [embedding], prompts))

    generator = segjax.SamAutomaticMaskGenerator(model, variables, **everything(points_per_side))
    generate = lambda: generator.generate(photograph((480, 640)))
    return {
        "matmul": lambda: product(square).block_until_ready(),
        "encoder": lambda: jax.block_until_ready(jitted.encode_images(model, variables, [picture])),
        "everything": generate,
        "everything but the network": answered_once(
            generate, (automatic, "encode_images"), (candidates, "decode_prompts")
        ),
    } | {f"decoder {count}": decode(count) for count in (1, 16, 64)}


def theirs(name: str, points_per_side: int, compiled: bool) -> dict[str, Callable]:
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
    picture = torch.from_numpy(photograph((model.canvas, model.canvas))).permute(2, 0, 1)[None]
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

    generator = segment_anything().SamAutomaticMaskGenerator(sam, **everything(points_per_side))
    generate = lambda: generator.generate(photograph((480, 640)))
    parts = {
        "matmul": lambda: square @ square,
        "encoder": lambda: sam.image_encoder(sam.preprocess(picture)),
        "everything": generate,
        "everything but the network": answered_once(
            generate, (sam.image_encoder, "forward"), (sam.mask_decoder, "forward")
        ),
    } | {f"decoder {count}": decode(count) for count in (1, 16, 64)}
    return {part: torch.inference_mode()(run) for part, run in parts.items()}


def answered_once(run: Callable, *networks: tuple[object, str]) -> Callable:
    """`run` with the first answer of each network (owner, attribute) to all that it is asked: leaves the rest.

    The answers to other clicks would be other masks, of the same number of pixels.
    """
    answers: dict[tuple[int, str], object] = {}

    def held(name: tuple[int, str], network: Callable) -> Callable:
        def answer(*args, **options):
            if name not in answers:
                answers[name] = network(*args, **options)
            return answers[name]

        return answer

    def rest():
        with contextlib.ExitStack() as stack:
            for owner, name in networks:
                stack.enter_context(
                    mock.patch.object(owner, name, held((id(owner), name), getattr(owner, name)))
                )
            run()

    return rest


def memory(name: str, points_per_side: int) -> None:
    """What segment-everything needs beyond the encoder on a picture of 30 megapixels."""
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
        **everything(points_per_side) | dict(output_mode="coco_rle"),
    )
    picture = photograph((4480, 6720))
    held = reset_peak()
    contents = jitted.resize_to_canvas([picture], model.canvas)
    jitted.encode_images(model, generator.variables, contents)
    print(f"encoder: {peak() - held:.0f} MiB beyond {held:.0f}", flush=True)
    held, began = reset_peak(), time.perf_counter()
    records = generator.generate(picture)
    candidates = 3 * points_per_side**2
    print(f"everything, encoder and all: {peak() - held:.0f} MiB beyond {held:.0f}, {len(records)} records of "
          f"{candidates} candidates, {time.perf_counter() - began:.0f} s")  # fmt: skip
    print(
        f"{candidates} candidates as float32 at full size, 192 at a time: {192 * 4480 * 6720 * 4 / 2**20:.0f} MiB"
    )


def everything(points_per_side: int) -> dict:
    """Arguments of both generators. Drawn weights say noise: of ViT-B's masks about one in twenty exceeds 1.62."""
    return dict(
        points_per_side=points_per_side, pred_iou_thresh=1.62, stability_score_thresh=0.0, box_nms_thresh=1.0,
        stability_score_offset=0.1,
    )  # fmt: skip


def photograph(hw: tuple[int, int]) -> np.ndarray:
    from PIL import Image
    from skimage import data

    return np.asarray(Image.fromarray(data.astronaut()).resize(hw[::-1]))


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def clicks(count: int, canvas: int) -> np.ndarray:
    return np.random.default_rng(2).uniform(0, canvas - 1, (count, 2)).astype(np.float32)


if __name__ == "__main__":
    main()
