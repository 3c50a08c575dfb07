"""Writes tests/golden/sam_debug.npz: what the reference implementation answers, stage by stage.

    pip install .[test,parity] segment-anything
    python tools/make_goldens.py

Weights are drawn from the names of the parameters (tests/golden/drawn_weights.py), inputs from seeds
(tests/golden/sam_inputs.py), so only answers are stored and the test that compares needs no torch. Run it again when
the architecture, a parameter's name or the inputs change; the answers come from segment-anything, never from our model.
"""

import pathlib
import sys

import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from golden.drawn_weights import drawn_variables  # noqa: E402
from golden.sam_inputs import pictures, prompts  # noqa: E402
from parity.sam_references import SegmentAnything  # noqa: E402

from segjax.models.sam.build import build_sam, init_sam  # noqa: E402


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
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
    target = ROOT / "tests" / "golden" / "sam_debug.npz"
    np.savez_compressed(target, **golden)
    print(f"{target.relative_to(ROOT)}: {len(golden)} arrays, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
