"""Programs get the same results from segment-anything's package and from segjax.compat.

pytest -m parity tests/parity
"""

import types

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from official_examples import batched_example, generator_example, predictor_example
from PIL import Image
from skimage import data

from segjax.compat import segment_anything
from segjax.models.sam.build import build_sam, init_sam
from segjax.weights.checkpoint import write_checkpoint

pytestmark = pytest.mark.parity
MODEL = build_sam("sam_debug")
IMAGES = [np.asarray(Image.fromarray(data.coffee()).resize(size)) for size in ((75, 50), (31, 64))]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "sam_vit_b_01ec64.pth"
    write_checkpoint(path, drawn_variables(MODEL, init_sam), metadata={})
    return str(path)


@pytest.fixture(scope="module")
def theirs(torch):
    """Returns their package with a registry that reads a file of this small size."""
    from parity.sam_references import SegmentAnything
    from parity.stand_ins import segment_anything

    def build(checkpoint):
        sam = SegmentAnything(MODEL, drawn_variables(MODEL, init_sam)).sam
        sam.load_state_dict(torch.load(checkpoint))
        return sam

    package = segment_anything()
    from segment_anything.utils.transforms import ResizeLongestSide

    return types.SimpleNamespace(
        sam_model_registry={"vit_b": build, "default": build},
        SamPredictor=package.SamPredictor,
        SamAutomaticMaskGenerator=package.SamAutomaticMaskGenerator,
        ResizeLongestSide=ResizeLongestSide,
    )


def assert_same(result, expected, path=""):
    """Checks kinds, shapes, types and values (to 1e-4). Masks may differ in 0.1 % of pixels."""
    assert type(result) is type(expected) or path.endswith("embedding"), path
    if isinstance(expected, dict):
        assert result.keys() == expected.keys()
        for key in expected:
            assert_same(result[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(result) == len(expected), path
        for index, parts in enumerate(zip(result, expected, strict=True)):
            assert_same(*parts, f"{path}/{index}")
    else:
        assert result.dtype == expected.dtype and result.shape == expected.shape, path
        result, expected = np.asarray(result), np.asarray(expected)
        if expected.dtype == bool:
            assert expected.size == 0 or (result != expected).mean() < 1e-3, path
        else:
            np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4, err_msg=path)


def test_the_official_predictor_example(theirs, checkpoint):
    result, expected = (
        predictor_example(sa, checkpoint, IMAGES[0]) for sa in (segment_anything, theirs)
    )
    assert_same(result, expected)


def test_the_official_batched_example(torch, theirs, checkpoint):
    result, expected = (
        batched_example(sa, torch, checkpoint, IMAGES) for sa in (segment_anything, theirs)
    )
    result.pop("drawn"), expected.pop("drawn")
    assert_same(result, expected)


def test_tensors_of_a_missing_device_are_on_the_cpu(torch, checkpoint):
    missing = "cuda" if not torch.cuda.is_available() else "cuda:99"
    result = batched_example(segment_anything, torch, checkpoint, IMAGES, device=missing)
    assert {tensor.device.type for tensor in (*result["boxes"], *result["points"])} == {"cpu"}


@pytest.mark.parametrize("overlap", [0.7, 1.0])
def test_the_official_generator_example(theirs, checkpoint, overlap):
    """Random masks cover the image. Suppression leaves few, and 1.0 compares all of them."""
    result, expected = (
        generator_example(sa, checkpoint, IMAGES[0], box_nms_thresh=overlap)
        for sa in (segment_anything, theirs)
    )
    for ours, official in zip(result[:2], expected[:2], strict=True):
        assert len(ours) == len(official) > 0
        for a, b in zip(ours, official, strict=True):
            assert a.keys() == b.keys()
            assert (a["segmentation"] != b["segmentation"]).mean() < 1e-3
            assert a["predicted_iou"] == pytest.approx(b["predicted_iou"], abs=1e-5)
            np.testing.assert_allclose(a["point_coords"], b["point_coords"], rtol=1e-6)
            assert a["crop_box"] == b["crop_box"]


def test_tensors_are_resized_as_in_torch(torch):
    image = torch.tensor(IMAGES[0]).permute(2, 0, 1)[None].float()
    result = segment_anything.ResizeLongestSide(33).apply_image_torch(image)
    expected = torch.nn.functional.interpolate(image, (22, 33), mode="bilinear", antialias=True)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result, expected, atol=1e-2)


def test_a_half_precision_state_dict_is_loaded(torch, checkpoint):
    sam = segment_anything.sam_model_registry["vit_b"](checkpoint=checkpoint)
    state = {name: tensor.bfloat16() for name, tensor in torch.load(checkpoint).items()}
    sam.load_state_dict(state)
    before, after = build_sam("sam_debug"), sam.variables["params"]["image_encoder"]["pos_embed"]
    assert sam.network == before
    expected = state["image_encoder.pos_embed"].float().numpy()
    np.testing.assert_array_equal(after, expected)
