"""Writes tests/golden: outputs of the reference implementations, stage by stage.

    pip install .[test,parity]
    python tools/make_goldens.py [sam_debug] [sam_frame] [mae_debug]

sam_debug.npz holds image encoder, prompt encoder and mask decoder. sam_frame.npz holds images,
points and boxes placed on the canvas, and masks mapped back to the image.

Weights are drawn from the names of the parameters (tests/golden/drawn_weights.py) and inputs from
seeds (tests/golden/{sam,mae}_inputs.py). So only outputs are stored, and the tests that compare
need no torch. Run it again when the architecture, a parameter's name or the inputs change. The
outputs come from segment-anything and transformers' ViTMAEForPreTraining, never from segjax.
"""

import pathlib
import sys

import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from golden.drawn_weights import drawn_variables  # noqa: E402
from golden.mae_inputs import inputs  # noqa: E402
from golden.sam_inputs import (  # noqa: E402
    FRAMES,
    make_framed_image,
    make_framed_logits,
    make_framed_prompts,
    make_images,
    prompts,
    subsample,
)
from parity.sam_references import SegmentAnything  # noqa: E402

from segjax.models.mae import build_mae, init_mae  # noqa: E402
from segjax.models.sam.build import build_sam, init_sam  # noqa: E402


def compute_sam_debug() -> dict[str, np.ndarray]:
    """Computes the outputs of image encoder, prompt encoder and mask decoder."""
    model = build_sam("sam_debug")
    reference = SegmentAnything(model, drawn_variables(model, init_sam))
    images = make_images(model.canvas)
    width = model.canvas * 5 // 8
    embeddings = [reference.encode(image) for image in images]
    # Image encoder
    golden = {
        "embedding": np.stack(embeddings),
        "padded_embedding": reference.encode(images[0][:, :width]),
    }
    # Prompt encoder and mask decoder, for each kind of prompt
    for kind, prompt in prompts(model.canvas, model.canvas // model.patch * 4).items():
        tokens, dense = reference.prompt(**prompt)
        logits, iou = reference.decode(embeddings[0], tokens, dense)
        golden |= {f"{kind}/tokens": tokens, f"{kind}/logits": logits, f"{kind}/iou": iou}
        if "mask" in prompt:
            golden[f"{kind}/dense"] = dense
    return golden


def compute_sam_frame() -> dict[str, np.ndarray]:
    """Computes resized images, canvas coordinates and full-size logits. Large ones are sampled."""
    golden = {}
    for canvas, sizes in FRAMES.items():
        model = build_sam("sam_debug", canvas=canvas)
        reference = SegmentAnything(model, drawn_variables(model, init_sam))
        for hw in sizes:
            # Image and prompts to the canvas, logits back to the image
            content, pixels = reference.preprocess(make_framed_image(hw))
            points, boxes = reference.on_canvas(*make_framed_prompts(hw), hw)
            logits = reference.in_picture(
                make_framed_logits(hw, model.mask_side), content.shape[:2], hw
            )
            samples = 128 if canvas == 64 else 12
            name = f"{canvas}/{hw[0]}x{hw[1]}"
            golden |= {
                f"{name}/size": np.array(content.shape[:2]),
                f"{name}/content": subsample(content, samples),
                f"{name}/pixels": subsample(pixels, samples),
                f"{name}/points": points,
                f"{name}/boxes": boxes,
                f"{name}/logits": subsample(logits, 2 * samples),
            }
    return golden


def compute_mae_debug() -> dict[str, np.ndarray]:
    """Computes the loss with normalized and raw pixels, the encoder's tokens, and a prediction."""
    from parity.mae_reference import TransformersMae

    golden = {}
    for name, norm_pix in (("normalised", True), ("plain", False)):
        model = build_mae("mae_debug", norm_pix=norm_pix)
        outputs = TransformersMae(model, drawn_variables(model, init_mae)).answers(*inputs(model))
        golden[f"loss_{name}"] = outputs["loss"]
    selected = {
        "tokens": outputs["tokens"],
        "masked": outputs["masked"] > 0,
        "prediction": outputs["prediction"][:1],
    }
    return golden | selected


GOLDENS = {
    "sam_debug": compute_sam_debug,
    "sam_frame": compute_sam_frame,
    "mae_debug": compute_mae_debug,
}


def main() -> None:
    """Writes the files that the command line names, or all."""
    jax.config.update("jax_platforms", "cpu")
    for name in sys.argv[1:] or GOLDENS:
        golden, target = GOLDENS[name](), ROOT / "tests" / "golden" / f"{name}.npz"
        np.savez_compressed(target, **golden)
        size = target.stat().st_size / 1000
        print(f"{target.relative_to(ROOT)}: {len(golden)} arrays, {size:.0f} kB")


if __name__ == "__main__":
    main()
