"""Programs written for segment-anything run after changing only their import line.

tests/parity/test_segment_anything_parity.py compares with the original.
"""

import subprocess
import sys

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from official_examples import EVERYTHING, generator_example, predictor_example
from PIL import Image
from skimage import data

import segjax
from segjax.compat import segment_anything
from segjax.compat.segment_anything import SamPredictor, sam_model_registry
from segjax.models.sam.build import build_sam, init_sam
from segjax.weights.names import HUGGINGFACE, OFFICIAL
from segjax.weights.registry import PUBLISHED
from segjax.weights.tables.sam import SAM
from segjax.weights.torch_writer import write_torch
from segjax.weights.tree import CheckpointError

IMAGE = np.asarray(Image.fromarray(data.coffee()).resize((75, 50)))
BOX = np.array([12, 8, 61, 40])


@pytest.fixture(scope="module")
def state():
    return SAM.to_published(drawn_variables(build_sam("sam_debug"), init_sam), OFFICIAL)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("weights") / "sam_vit_b_01ec64.pth"
    write_torch(path, state)
    return str(path)


@pytest.fixture(scope="module")
def sam(checkpoint):
    return sam_model_registry["vit_b"](checkpoint=checkpoint)


@pytest.fixture(scope="module")
def predictor(sam):
    made = SamPredictor(sam)
    made.set_image(IMAGE)
    return made


@pytest.fixture(scope="module")
def ours(checkpoint):
    made = segjax.SamPredictor(*segjax.load(checkpoint))
    made.set_image(IMAGE)
    return made


def assert_same(found, wanted):
    jax.tree.map(
        lambda f, w: np.testing.assert_allclose(f, w, atol=1e-4), tuple(found), tuple(wanted)
    )


def test_the_official_predictor_example(checkpoint, ours):
    got = predictor_example(segment_anything, checkpoint, IMAGE, device="cuda")
    assert got["size"].tolist() == [50, 75, 43, 64, 64] and got["shape"].tolist() == [43, 64]
    assert_same(got["one point"], ours.predict([[20, 15]], [1]))
    fed_back = got["one point"][2][np.argmax(got["one point"][1])]
    points = [[20, 15], [50, 31]]
    refined = ours.predict(points, [1, 1], mask_input=fed_back, multimask_output=False)
    assert_same(got["refined"], refined)
    assert_same(
        got["not that"], ours.predict(points, [1, 0], mask_input=refined[2], multimask_output=False)
    )
    assert_same(got["box"], ours.predict(box=BOX, multimask_output=False, return_logits=True))
    assert_same(got["box and point"], ours.predict([[30, 20]], [0], BOX, multimask_output=False))
    np.testing.assert_array_equal(got["thresholded"], ours.predict(points, [1, 1])[0])
    np.testing.assert_array_equal(got["logits"] > 0, got["thresholded"])
    np.testing.assert_allclose(got["apply_coords"], np.array(points) * (64 / 75, 43 / 50))
    assert got["apply_boxes"].shape == (1, 4) and got["apply_image"].shape == (43, 64, 3)
    np.testing.assert_allclose(got["embedding"], np.moveaxis(ours.features, -1, 1), atol=1e-4)
    assert_same(got["kept"], ours.predict(box=BOX, multimask_output=False))
    flipped = segjax.SamPredictor(ours.model, ours.variables)
    flipped.set_image(IMAGE[:, ::-1])
    assert_same(got["other"], flipped.predict(box=[5, 5, 30, 30]))


def test_the_official_generator_example(checkpoint, ours):
    records, cropped, rgba = generator_example(
        segment_anything, checkpoint, IMAGE, box_nms_thresh=1.0
    )
    generator = segjax.SamAutomaticMaskGenerator(
        ours.model, ours.variables, 4, box_nms_thresh=1.0, **EVERYTHING
    )
    assert len(records) == len(generator.generate(IMAGE)) > 20 and len(cropped) > 0
    keys = {
        "segmentation",
        "area",
        "bbox",
        "predicted_iou",
        "point_coords",
        "stability_score",
        "crop_box",
    }
    assert set(records[0]) == keys and records[0]["segmentation"].shape == (50, 75)
    assert (rgba[..., 3] > 0).sum() == np.any(
        [record["segmentation"] for record in records], axis=0
    ).sum()


def test_prompts_in_the_resized_and_in_the_original_frame_give_the_same_masks(predictor, ours):
    boxes = np.stack([BOX, [1, 2, 70, 41]])
    points, labels = np.array([[[20.0, 15]], [[5, 6]]]), np.array([[1], [0]])
    on_canvas = predictor.transform.apply_boxes_torch(boxes, (50, 75))
    clicks = predictor.transform.apply_coords_torch(points, (50, 75))
    assert on_canvas.dtype == clicks.dtype == np.float32
    found = predictor.predict_torch(
        clicks, labels, on_canvas, multimask_output=False, return_logits=True
    )
    wanted = ours.predict_batch(points, labels, boxes, multimask_output=False, return_logits=True)
    assert_same(found, wanted)
    chained = predictor.predict_torch(None, None, on_canvas[:, None], found[2], True)
    assert_same(chained, ours.predict_batch(boxes=boxes, mask_input=found[2]))
    assert (
        chained[0].cpu().numpy().dtype == bool and type(chained[0].detach().numpy()) is np.ndarray
    )
    assert predictor.predict_torch(None, None, on_canvas[:0])[0].shape == (0, 3, 50, 75)


def test_calling_the_model_with_several_images_and_prompts(sam, predictor, ours):
    def resized(image):
        return predictor.transform.apply_image(image).transpose(2, 0, 1)

    tall = IMAGE[:, 20:40]
    points = predictor.transform.apply_coords_torch(
        np.array([[[9.0, 9]], [[3, 40]]]), tall.shape[:2]
    )
    records = [
        dict(
            image=resized(IMAGE),
            original_size=(50, 75),
            boxes=predictor.transform.apply_boxes(BOX, (50, 75)),
        ),
        dict(
            image=resized(tall),
            original_size=(50, 20),
            point_coords=points,
            point_labels=np.ones((2, 1)),
        ),
    ]
    first, second = sam(records, multimask_output=True)
    assert_same(first.values(), ours.predict_batch(boxes=BOX[None]))
    narrow = segjax.SamPredictor(ours.model, ours.variables)
    narrow.set_image(tall)
    assert_same(second.values(), narrow.predict_batch([[[9, 9]], [[3, 40]]], [[1], [1]]))
    assert list(second) == ["masks", "iou_predictions", "low_res_logits"]
    assert [value.shape for value in second.values()] == [(2, 3, 50, 20), (2, 3), (2, 3, 16, 16)]
    floats = sam([records[0] | {"image": records[0]["image"] * 1.0}], multimask_output=True)[0]
    assert_same(floats.values(), first.values())


def test_a_state_dict_is_loaded(sam, state, ours):
    made = segment_anything.Sam(sam.network)
    predictor = SamPredictor(made)  # first without weights, then with other weights
    with pytest.raises(
        ValueError, match="no weights; build it with checkpoint=path, or call load_state_dict"
    ):
        predictor.set_image(IMAGE)
    made.load_state_dict({key: np.zeros_like(value) for key, value in state.items()})
    predictor.set_image(IMAGE)
    assert not np.asarray(predictor.get_image_embedding()).any()
    made.load_state_dict({f"module.{key}": value for key, value in state.items()})
    predictor.set_image(IMAGE)
    assert np.asarray(predictor.get_image_embedding()).any()
    jax.tree.map(np.testing.assert_array_equal, made.variables, ours.variables)
    with pytest.raises(
        CheckpointError,
        match="the state dict .segment-anything. is of another architecture: 1 missing",
    ):
        made.load_state_dict(
            {key: value for key, value in state.items() if "mask_tokens" not in key}, strict=False
        )


def test_the_registry_has_the_official_names_and_builds_the_size_of_a_file(
    checkpoint, sam, monkeypatch, tmp_path
):
    assert list(sam_model_registry) == ["default", "vit_h", "vit_l", "vit_b"]
    for key, width in (("default", 1280), ("vit_h", 1280), ("vit_l", 1024), ("vit_b", 768)):
        empty = sam_model_registry[key]()
        assert (empty.network.width, empty.image_encoder.img_size) == (width, 1024)
    assert segment_anything.build_sam is segment_anything.build_sam_vit_h
    assert sam.network == build_sam("sam_debug") and sam.eval() is sam
    assert (sam.prompt_encoder.embed_dim, sam.prompt_encoder.image_embedding_size) == (32, (4, 4))
    monkeypatch.setitem(PUBLISHED, "sam_debug", PUBLISHED["sam_vit_b"])
    with pytest.raises(
        CheckpointError,
        match=r"holds sam_debug, expected sam_vit_h; build it .*registry\['debug'\]",
    ):
        sam_model_registry["vit_h"](checkpoint=checkpoint)
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        sam_model_registry["vit_b"](checkpoint="nowhere.pth")
    with pytest.raises(KeyError, match="unknown size 'vit_z'.*default, vit_h, vit_l, vit_b"):
        sam_model_registry["vit_z"]


def test_a_file_of_transformers_is_loaded(tmp_path, checkpoint):
    state = SAM.to_published(drawn_variables(build_sam("sam_debug"), init_sam), HUGGINGFACE)
    write_torch(tmp_path / "sam_vit_b_01ec64.pth", state)
    found = sam_model_registry["vit_b"](checkpoint=tmp_path / "sam_vit_b_01ec64.pth")
    jax.tree.map(np.testing.assert_array_equal, found.variables, segjax.load(checkpoint)[1])


def test_setting_the_device_moves_nothing(sam):
    assert sam.to("cuda:1") is sam.cuda() is sam.cpu() is sam
    assert str(sam.device) == "cpu"
    assert {d for leaf in jax.tree.leaves(sam.variables) for d in leaf.devices()} == {
        jax.devices()[0]
    }


def test_predicting_without_an_image_is_an_error(sam):
    made = SamPredictor(sam)
    for call in (made.predict, made.get_image_embedding, lambda: made.predict_torch(None, None)):
        with pytest.raises(RuntimeError, match="set_image"):
            call()
    assert made.features is None and not made.is_image_set


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda p: p.predict(np.array([[80, 3]]), np.array([1])),
            r"point \(80, 3\) is outside the image of width 75",
        ),
        (lambda p: p.predict(np.array([[8, 3]]), np.array([2])), "point label 2"),
        (lambda p: p.predict(box=np.array([9, 9, 3, 20])), "x1 < x2"),
        (lambda p: p.predict(box=np.stack([BOX, BOX])), "predict takes one prompt"),
        (lambda p: p.predict(mask_input=np.zeros((1, 256, 256))), r"expected \[1, 16, 16\]"),
        (
            lambda p: p.predict_torch(np.array([[[1.0, 2]], [[70, 2]]]), np.ones((2, 1))),
            r"prompt 1: point \(70, 2\) is outside the image of width 64 and height 43",
        ),
        (
            lambda p: p.set_torch_image(np.zeros((1, 3, 40, 40), np.uint8), (40, 40)),
            "whose longest side is 64",
        ),
        (
            lambda p: p.model([{"image": np.zeros((3, 9, 65))}], False),
            r"batched_input\[0\]: there is no original_size",
        ),
        (
            lambda p: p.model([{"image": np.zeros((3, 9, 65)), "original_size": (9, 65)}], False),
            r"batched_input\[0\]: image has shape \(3, 9, 65\); expected \[3, h, w\]",
        ),
        (
            lambda p: p.model.parameters(),
            "no 'parameters'; help.segjax.compat.segment_anything. lists the differences",
        ),
    ],
)
def test_invalid_arguments_are_errors(sam, call, message):
    made = SamPredictor(sam)
    made.set_image(IMAGE)
    with pytest.raises((ValueError, AttributeError), match=message):
        call(made)


def test_torch_is_never_imported(checkpoint):
    program = f"""
import sys, numpy as np
from segjax.compat.segment_anything import SamPredictor, sam_model_registry
predictor = SamPredictor(sam_model_registry["vit_b"](checkpoint={checkpoint!r}).to("cuda"))
assert predictor.device == "cuda"
assert predictor.transform.apply_coords_torch(np.ones((1, 2)), (4, 5)).shape == (1, 2)
assert not {{"torch", "torchvision", "transformers", "tensorflow"}} & set(sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", program], check=True, env={"JAX_PLATFORMS": "cpu", "PATH": ""}
    )
