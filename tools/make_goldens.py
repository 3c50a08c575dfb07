"""Writes tests/golden/{sam,mae}_debug.npz: what the reference implementations answer, stage by stage.

    pip install .[test,parity] segment-anything
    python tools/make_goldens.py [sam] [mae]

Weights are drawn from the names of the parameters (tests/golden/drawn_weights.py), inputs from seeds
(tests/golden/{sam,mae}_inputs.py), so only answers are stored and the test that compares needs no torch. Run it again
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
from golden.sam_inputs import pictures, prompts  # noqa: E402

from segjax.models.mae import build_mae, init_mae  # noqa: E402
from segjax.models.sam.build import build_sam, init_sam  # noqa: E402


def sam() -> dict[str, np.ndarray]:
    from parity.sam_references import SegmentAnything

    model = build_sam("sam_debug")
    reference = SegmentAnything(model, drawn_variables(model, init_sam))
    images = pictures(model.canvas)
    width = model.canvas * 5 // 8
    embeddings = [reference.encode(image) for image in images]
    golden = {"embedding": np.stack(embeddings), "padded_embedding": reference.encode(images[0][:, :width])}
    for kind, prompt in prompts(model.canvas, model.canvas // model.patch * 4).items():
        tokens, dense = reference.prompt(**prompt)
        logits, iou = reference.decode(embeddings[0], tokens, dense)
        golden |= {f"{kind}/tokens": tokens, f"{kind}/logits": logits, f"{kind}/iou": iou}
        if "mask" in prompt:
            golden[f"{kind}/dense"] = dense
    return golden


def mae() -> dict[str, np.ndarray]:
    from parity.mae_reference import TransformersMae

    golden = {}
    for name, norm_pix in (("normalised", True), ("plain", False)):
        model = build_mae("mae_debug", norm_pix=norm_pix)
        answers = TransformersMae(model, drawn_variables(model, init_mae)).answers(*inputs(model))
        golden[f"loss_{name}"] = answers["loss"]
    picked = {"tokens": answers["tokens"], "masked": answers["masked"] > 0, "prediction": answers["prediction"][:1]}
    return golden | picked


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    for name in sys.argv[1:] or ("sam", "mae"):
        golden = {"sam": sam, "mae": mae}[name]()
        target = ROOT / "tests" / "golden" / f"{name}_debug.npz"
        np.savez_compressed(target, **golden)
        print(f"{target.relative_to(ROOT)}: {len(golden)} arrays, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
