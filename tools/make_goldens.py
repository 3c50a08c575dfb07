"""Writes tests/golden: what the reference implementations answer, stage by stage.

    pip install .[test,parity]
    python tools/make_goldens.py [sam_debug] [sam_frame] [mae_debug]

sam_debug.npz: image encoder, prompt encoder and decoder. sam_frame.npz: pictures, points and boxes on their way to the
canvas, and masks on their way back.

Weights are drawn from the names of the parameters (tests/golden/drawn_weights.py), inputs from seeds
(tests/golden/{sam,mae}_inputs.py), so only answers are stored and the tests that compare need no torch. Run it again
when the architecture, a parameter's name or the inputs change; the answers come from segment-anything and from
transformers' ViTMAEForPreTraining, never from our models.
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
    framed_logits,
    framed_picture,
    framed_prompts,
    pictures,
    prompts,
    sampled,
)
from parity.sam_references import SegmentAnything  # noqa: E402

from segjax.models.mae import build_mae, init_mae  # noqa: E402
from segjax.models.sam.build import build_sam, init_sam  # noqa: E402


def sam_debug() -> dict[str, np.ndarray]:
    """Answers of encoder, prompt encoder and decoder."""
    model = build_sam("sam_debug")
    reference = SegmentAnything(model, drawn_variables(model, init_sam))
    images = pictures(model.canvas)
    width = model.canvas * 5 // 8
    embeddings = [reference.encode(image) for image in images]
    golden = {
        "embedding": np.stack(embeddings),
        "padded_embedding": reference.encode(images[0][:, :width]),
    }
    for kind, prompt in prompts(model.canvas, model.canvas // model.patch * 4).items():
        tokens, dense = reference.prompt(**prompt)
        logits, iou = reference.decode(embeddings[0], tokens, dense)
        golden |= {f"{kind}/tokens": tokens, f"{kind}/logits": logits, f"{kind}/iou": iou}
        if "mask" in prompt:
            golden[f"{kind}/dense"] = dense
    return golden


def sam_frame() -> dict[str, np.ndarray]:
    """Resized content, the encoder's pixels, coordinates on the canvas, logits in the picture; large ones sampled."""
    golden = {}
    for canvas, sizes in FRAMES.items():
        model = build_sam("sam_debug", canvas=canvas)
        reference = SegmentAnything(model, drawn_variables(model, init_sam))
        for hw in sizes:
            content, pixels = reference.preprocess(framed_picture(hw))
            points, boxes = reference.on_canvas(*framed_prompts(hw), hw)
            logits = reference.in_picture(framed_logits(hw, model.mask_side), content.shape[:2], hw)
            most = 128 if canvas == 64 else 12
            name = f"{canvas}/{hw[0]}x{hw[1]}"
            golden |= {
                f"{name}/size": np.array(content.shape[:2]),
                f"{name}/content": sampled(content, most),
                f"{name}/pixels": sampled(pixels, most),
                f"{name}/points": points,
                f"{name}/boxes": boxes,
                f"{name}/logits": sampled(logits, 2 * most),
            }
    return golden


def mae_debug() -> dict[str, np.ndarray]:
    """The loss with normalised and plain pixels, the encoder's tokens, one prediction."""
    from parity.mae_reference import TransformersMae

    golden = {}
    for name, norm_pix in (("normalised", True), ("plain", False)):
        model = build_mae("mae_debug", norm_pix=norm_pix)
        answers = TransformersMae(model, drawn_variables(model, init_mae)).answers(*inputs(model))
        golden[f"loss_{name}"] = answers["loss"]
    picked = {
        "tokens": answers["tokens"],
        "masked": answers["masked"] > 0,
        "prediction": answers["prediction"][:1],
    }
    return golden | picked


GOLDENS = {"sam_debug": sam_debug, "sam_frame": sam_frame, "mae_debug": mae_debug}


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    for name in sys.argv[1:] or GOLDENS:
        golden, target = GOLDENS[name](), ROOT / "tests" / "golden" / f"{name}.npz"
        np.savez_compressed(target, **golden)
        print(
            f"{target.relative_to(ROOT)}: {len(golden)} arrays, {target.stat().st_size / 1000:.0f} kB"
        )


if __name__ == "__main__":
    main()
