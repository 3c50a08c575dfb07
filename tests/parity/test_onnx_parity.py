"""Exported decoders give the results of segment-anything's `SamOnnxModel`, for its own inputs.

pytest -m parity tests/parity
"""

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax.models.sam.build import build_sam, init_sam

pytestmark = pytest.mark.parity
MODEL = build_sam("sam_debug")
# Corners of boxes are points. Odd lists, without or with several padding points, follow its rules.
LABELS = ([1, -1], [1, 0, 1, -1], [2, 3], [1, 2, 3], [0], [-1], [1, -1, -1, -1], [3, 1, 2, -1])


@pytest.mark.parametrize("single_mask", [False, True])
def test_exported_decoders_equal_the_reference(tmp_path, single_mask):
    torch = pytest.importorskip("torch")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("jax2onnx")
    from parity.sam_references import SegmentAnything

    variables = drawn_variables(MODEL, init_sam)
    reference = SegmentAnything(MODEL, variables).sam
    from segment_anything.utils.onnx import SamOnnxModel

    from segjax.inference.onnx.export import export_decoder, write_model

    theirs = SamOnnxModel(reference, return_single_mask=single_mask)
    with write_model(
        tmp_path / "decoder.onnx", export_decoder(MODEL, variables, single_mask=single_mask)
    ) as file:
        ours = onnxruntime.InferenceSession(str(file))
    random, side = np.random.default_rng(0), MODEL.mask_side
    for index, labels in enumerate(LABELS):
        count = len(labels)
        feeds = {
            "image_embeddings": random.standard_normal(
                (1, MODEL.prompt_width, side // 4, side // 4)
            ),
            "point_coords": random.uniform(0, MODEL.canvas, (1, count, 2)),
            "point_labels": np.array([labels]),
            "mask_input": random.normal(0, 5, (1, 1, side, side)),
            "has_mask_input": np.array([index % 2]),
            "orig_im_size": np.array([(90, 50), (40, 64), (31, 127)][index % 3]),
        }
        feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
        with torch.no_grad():
            expected = theirs(**{name: torch.from_numpy(value) for name, value in feeds.items()})
        found = ours.run(["masks", "iou_predictions", "low_res_masks"], feeds)
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x, y.numpy(), atol=1e-4)
