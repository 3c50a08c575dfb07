"""The same programs through segment-anything's own package and through ours: what they get is the same.

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
    """Their package, whose registry reads a file of this size; it knows the published sizes alone."""
    from parity.sam_references import SegmentAnything
    from parity.stand_ins import segment_anything

    def built(checkpoint):
        sam = SegmentAnything(MODEL, drawn_variables(MODEL, init_sam)).sam
        sam.load_state_dict(torch.load(checkpoint))
        return sam

    package = segment_anything()
    from segment_anything.utils.transforms import ResizeLongestSide

    return types.SimpleNamespace(
        sam_model_registry={"vit_b": built, "default": built},
        SamPredictor=package.SamPredictor,
        SamAutomaticMaskGenerator=package.SamAutomaticMaskGenerator,
        ResizeLongestSide=ResizeLongestSide,
    )


def assert_same(found, wanted, path=""):
    """Same kinds, shapes and types; numbers to 1e-4 of their size, masks but for pixels whose logit is nearly 0."""
    assert type(found) is type(wanted) or path.endswith("embedding"), path
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_same(found[key], wanted[key], f"{path}/{key}")
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted), path
        for place, parts in enumerate(zip(found, wanted, strict=True)):
            assert_same(*parts, f"{path}/{place}")
    else:
        assert found.dtype == wanted.dtype and found.shape == wanted.shape, path
        found, wanted = np.asarray(found), np.asarray(wanted)
        if wanted.dtype == bool:
            assert wanted.size == 0 or (found != wanted).mean() < 1e-3, path
        else:
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4, err_msg=path)


def test_the_predictor_example(theirs, checkpoint):
    found, wanted = (
        predictor_example(sa, checkpoint, IMAGES[0]) for sa in (segment_anything, theirs)
    )
    assert_same(found, wanted)


def test_the_batched_example(torch, theirs, checkpoint):
    found, wanted = (
        batched_example(sa, torch, checkpoint, IMAGES) for sa in (segment_anything, theirs)
    )
    found.pop("drawn"), wanted.pop("drawn")
    assert_same(found, wanted)


def test_where_torch_has_no_such_device_tensors_are_on_the_cpu(torch, checkpoint):
    missing = "cuda" if not torch.cuda.is_available() else "cuda:99"
    found = batched_example(segment_anything, torch, checkpoint, IMAGES, device=missing)
    assert {answer.device.type for answer in (*found["boxes"], *found["points"])} == {"cpu"}


@pytest.mark.parametrize("overlap", [0.7, 1.0])
def test_the_generator_example(theirs, checkpoint, overlap):
    """Masks of drawn weights cover the picture: suppression leaves few; without it (1.0) all are compared."""
    found, wanted = (
        generator_example(sa, checkpoint, IMAGES[0], box_nms_thresh=overlap)
        for sa in (segment_anything, theirs)
    )
    for ours, official in zip(found[:2], wanted[:2], strict=True):
        assert len(ours) == len(official) > 0
        for a, b in zip(ours, official, strict=True):
            assert a.keys() == b.keys()
            assert (a["segmentation"] != b["segmentation"]).mean() < 1e-3
            assert a["predicted_iou"] == pytest.approx(b["predicted_iou"], abs=1e-5)
            np.testing.assert_allclose(a["point_coords"], b["point_coords"], rtol=1e-6)
            assert a["crop_box"] == b["crop_box"]


def test_tensors_are_resized_as_torch_does(torch):
    image = torch.tensor(IMAGES[0]).permute(2, 0, 1)[None].float()
    found = segment_anything.ResizeLongestSide(33).apply_image_torch(image)
    wanted = torch.nn.functional.interpolate(image, (22, 33), mode="bilinear", antialias=True)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, wanted, atol=1e-2)


def test_a_state_dict_of_tensors_half_precision_too_is_taken(torch, checkpoint):
    sam = segment_anything.sam_model_registry["vit_b"](checkpoint=checkpoint)
    state = {name: tensor.bfloat16() for name, tensor in torch.load(checkpoint).items()}
    sam.load_state_dict(state)
    before, after = build_sam("sam_debug"), sam.variables["params"]["image_encoder"]["pos_embed"]
    assert sam.network == before
    wanted = state["image_encoder.pos_embed"].float().numpy()
    np.testing.assert_array_equal(after, wanted)
