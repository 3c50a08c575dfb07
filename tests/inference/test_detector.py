"""The detector on images of any size: few programs, detections in image pixels, invalid images."""

import jax
import numpy as np
import pytest
from compilations import compilations
from golden.drawn_weights import drawn_variables

import segjax
from segjax.images.decoding import ImageError
from segjax.images.placement import place_whole_image
from segjax.inference.detection import detector as module
from segjax.inference.detection.canvases import choose_canvas, list_default_canvases
from segjax.inference.detection.class_names import (
    COCO,
    COCO_KEYPOINTS,
    DetectorClasses,
    resolve_classes,
)
from segjax.inference.detection.detector import Detector
from segjax.inference.detection.export import export_detector, read_exported, write_exported
from segjax.inference.detection.postprocess import detect_on_canvas, to_image_frame
from segjax.masks import decode_mask
from segjax.models.build import build_model, init_model
from segjax.models.sam.build import build_sam
from segjax.weights.checkpoint import write_checkpoint

MODEL = build_model("maskrcnn_debug", canvas=96, long_side=96, short_side=64)
CANVASES = [(64, 96), (96, 64)]  # two of the default three, to compile less
VARIABLES = drawn_variables(MODEL, init_model)
RNG = np.random.default_rng(5)


def make_noise(height, width):
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def detector():
    return Detector(MODEL, VARIABLES, canvases=CANVASES)


def test_images_of_all_sizes_share_one_program_per_canvas(detector):
    sizes = [(64, 64), (1, 1), (3, 200), (200, 3), (7, 5), (300, 310), (1000, 20)]
    sizes += [tuple(RNG.integers(10, 300, 2).tolist()) for _ in range(16)]
    images = [make_noise(*hw) for hw in sizes]
    module._detect_on_canvas.clear_cache()  # another test may have run first
    with compilations() as compiled:
        outputs = detector(images)
    assert {choose_canvas(MODEL, hw, CANVASES)[1] for hw in sizes} == set(CANVASES)
    assert len(compiled) == len(CANVASES)
    with compilations() as compiled:
        again = detector(images[6::-1])[::-1]
    assert compiled == []
    for output, other in zip(outputs, again, strict=False):
        for name, value in output.items():
            np.testing.assert_array_equal(value, other[name])
    for (height, width), output in zip(sizes, outputs, strict=True):
        count = len(output["boxes"])
        shapes = dict(
            boxes=(4,),
            labels=(),
            scores=(),
            masks=(height, width),
            keypoints=(2, 3),
            keypoints_scores=(2,),
        )
        assert {name: value.shape for name, value in output.items()} == {
            n: (count, *s) for n, s in shapes.items()
        }
        kinds = dict(
            boxes="f4", labels="i8", scores="f4", masks="?", keypoints="f4", keypoints_scores="f4"
        )
        assert {name: value.dtype for name, value in output.items()} == {
            n: np.dtype(k) for n, k in kinds.items()
        }
        x1, y1, x2, y2 = output["boxes"].T
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()
        assert (x1 < x2).all() and (y1 < y2).all()
        assert (output["scores"] > MODEL.detection_selection.score_threshold).all() and (
            np.diff(output["scores"]) <= 0
        ).all()
        assert np.isin(output["labels"], (1, 2, 3)).all()
    assert sum(len(output["boxes"]) for output in outputs) > 50


def test_batches_equal_single_images(detector):
    images = [make_noise(64, 90), make_noise(40, 40), make_noise(80, 100)]
    many = Detector(
        MODEL, VARIABLES, images_per_batch=2, output_mode="coco_rle", canvases=CANVASES[:1]
    )
    with compilations() as compiled:
        batched = many(images)
    assert len(compiled) == 1, "an incomplete batch is padded"
    for image, output, alone in zip(images, batched, detector(images), strict=True):
        assert len(alone["boxes"]) and (output["labels"] == alone["labels"]).all()
        np.testing.assert_allclose(output["boxes"], alone["boxes"], atol=1e-3)
        for rle, mask in zip(output["masks"], alone["masks"], strict=True):
            assert rle["size"] == list(image.shape[:2])
            assert (decode_mask(rle["counts"], *rle["size"]) != mask).mean() < 0.01


def test_an_image_has_the_same_detections_on_every_canvas(detector):
    image = make_noise(20, 20).repeat(3, 0).repeat(3, 1)
    assert choose_canvas(MODEL, image.shape[:2], "tight")[1] == (64, 64)
    outputs = [Detector(MODEL, VARIABLES, canvases=[hw])([image])[0] for hw in CANVASES]
    assert len(outputs[0]["boxes"]) > 3
    np.testing.assert_array_equal(outputs[0]["labels"], outputs[1]["labels"])
    np.testing.assert_allclose(outputs[0]["scores"], outputs[1]["scores"], atol=1e-4)
    np.testing.assert_allclose(outputs[0]["boxes"], outputs[1]["boxes"], atol=1e-4 * 60)
    assert (outputs[0]["masks"] != outputs[1]["masks"]).mean() < 1e-3


def test_an_image_of_canvas_size_gets_the_outputs_of_the_model(detector):
    image = make_noise(64, 96)
    rows = module._detect_on_canvas(
        MODEL, detector.variables, image[None], np.array([[64, 96]], np.int32)
    )
    valid = np.asarray(rows["valid"][0])
    output, three = (
        detector([image])[0],
        Detector(MODEL, VARIABLES, max_detections=3)([image])[0],
    )  # on a default canvas
    assert valid.sum() > 3
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(output[name], rows[name][0][valid])
        np.testing.assert_array_equal(three[name], output[name][:3])
    sure = Detector(MODEL, VARIABLES, score_threshold=float(output["scores"][2]))([image])[0]
    np.testing.assert_array_equal(
        sure["boxes"], output["boxes"][output["scores"] > output["scores"][2]]
    )


def test_conversion_to_image_pixels_by_hand():
    """In an image of twice the size all coordinates double, and a full mask fills its box."""
    cells = np.ones((3, 28, 28), np.float32)
    cells[1, :, 14:] = 0  # its left half
    keypoints = np.array([[[10.5, 20.5, 7.0]]] * 3, np.float32)
    row = dict(
        boxes=np.array([[10, 20, 30, 40], [0, 0, 8, 8], [1, 2, 3, 4]], np.float32),
        scores=np.array([0.9, 0.8, 0], np.float32),
        labels=np.array([2, 1, 0]),
        valid=np.array([True, True, False]),
        masks=cells,
        keypoints=keypoints,
    )
    model = build_model("maskrcnn_debug", conventions="detectron2_rgb")
    detections = to_image_frame(model, row, place_whole_image((96, 128), (48, 64)))
    assert detections.hw == (96, 128) and detections.labels.tolist() == [2, 1]
    assert detections.boxes.tolist() == [[20, 40, 60, 80], [0, 0, 16, 16]]
    expected = np.zeros((2, 96, 128), bool)
    expected[0, 40:80, 20:60] = expected[1, :16, :8] = True
    np.testing.assert_array_equal(
        [decode_mask(counts, *detections.hw) for counts in detections.masks], expected
    )
    np.testing.assert_array_equal(detections.keypoints, [[[21, 41, 7]], [[21, 41, 7]]])


def test_no_detections_are_empty_arrays_of_the_same_shapes(detector):
    nothing = Detector(MODEL, VARIABLES, score_threshold=1)
    shapes = {name: value.shape for name, value in nothing([make_noise(30, 40)])[0].items()}
    assert shapes == dict(
        boxes=(0, 4),
        labels=(0,),
        scores=(0,),
        masks=(0, 30, 40),
        keypoints=(0, 2, 3),
        keypoints_scores=(0, 2),
    )
    nothing.output_mode = "coco_rle"
    assert nothing([make_noise(30, 40)])[0]["masks"] == []
    assert detector([]) == []


def test_accepted_and_rejected_images(detector):
    gray = RNG.integers(0, 65536, (50, 70), np.uint16)
    eight = (
        (gray - np.float32(gray.min())) * np.float32(255 / (gray.max() - gray.min())) + 0.5
    ).astype(np.uint8)
    rgb = np.repeat(eight[..., None], 3, axis=2)
    rgba = np.concatenate([rgb, np.full((50, 70, 1), 9, np.uint8)], axis=2)
    color = make_noise(50, 70)
    same = detector([gray, rgb, rgba, eight])
    assert all((output["boxes"] == same[0]["boxes"]).all() for output in same)
    bgr = detector([color[..., ::-1]], image_format="BGR")[0]
    np.testing.assert_array_equal(bgr["boxes"], detector([color])[0]["boxes"])
    with pytest.raises(ValueError, match="RGB' or 'BGR'"):
        detector([color], "RGBA")
    with pytest.raises(
        ValueError, match=r"one array of shape \(50, 70, 3\); expected a list of images: \[image\]"
    ):
        detector(color)
    floats = detector([color, color / 255])
    np.testing.assert_array_equal(floats[0]["boxes"], floats[1]["boxes"])
    with pytest.raises(ImageError, match="image 0"):
        detector([np.zeros((0, 5, 3), np.uint8)])


def test_invalid_arguments_raise():
    broken = jax.tree.map(np.copy, VARIABLES)
    broken["params"]["rpn"]["logits"]["bias"][0] = np.nan
    for arguments, options, message in (
        ((MODEL, broken), {}, "params/rpn/logits/bias holds NaN or infinity.*take an earlier"),
        ((build_sam("sam_debug"), {}), {}, "takes a Mask R-CNN, got Sam; SamPredictor takes a SAM"),
        (
            (MODEL, VARIABLES),
            dict(output_mode="soft"),
            "output_mode 'soft' is unknown; choose one of binary_mask",
        ),
        (
            (MODEL, VARIABLES),
            dict(canvases=[(64, 100)]),
            "expected at least one .height, width., in multiples of 32",
        ),
        ((MODEL, VARIABLES), dict(canvases=[]), "canvases are .*expected at least one"),
        (
            (MODEL, VARIABLES),
            dict(images_per_batch=0),
            "images_per_batch is 0; expected at least 1",
        ),
        ((MODEL, VARIABLES), dict(max_detections=0), "max_detections is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Detector(*arguments, **options)


def test_default_and_chosen_canvases():
    published = build_model("maskrcnn_resnet50_fpn")
    usual = list_default_canvases(published)
    assert list_default_canvases(MODEL) == ((64, 64), (64, 96), (96, 64))
    assert set(usual) == {(800, 800), (800, 1088), (1088, 800), (800, 1344), (1344, 800)}
    assert list_default_canvases(build_model("vitdet_vit_b")) == ((1024, 1024),)
    assert list_default_canvases(build_model("maskrcnn_resnet50_fpn", canvas=512)) == ((512, 512),)
    for hw, canvas, size in (
        ((480, 640), (800, 1088), (800, 1066)),
        ((640, 480), (1088, 800), (1066, 800)),
        ((600, 600), (800, 800), (800, 800)),
        ((300, 1000), (800, 1344), (399, 1333)),
        ((1080, 1920), (800, 1344), (749, 1333)),
    ):
        placement, chosen = choose_canvas(published, hw, usual)
        assert (placement.size, chosen, placement.resize) == (size, canvas, "torchvision")
    assert choose_canvas(published, (300, 1000), "tight")[1] == (416, 1344)
    # No canvas holds 800 x 1066: the image shrinks into the canvas that shows it largest.
    placement, chosen = choose_canvas(published, (480, 640), [(320, 320), (320, 640), (640, 320)])
    assert (placement.size, chosen) == ((320, 427), (320, 640))


def test_class_names(tmp_path):
    of = lambda name, **options: resolve_classes(build_model(name, **options))
    torchvision, detectron2 = of("maskrcnn_resnet50_fpn"), of("mask_rcnn_R_50_FPN")
    assert (torchvision.names[17], torchvision.ids[17], torchvision.names[11]) == ("dog", 18, "N/A")
    assert (detectron2.names[16], detectron2.ids[16], detectron2.names[-1], len(COCO)) == (
        "dog",
        18,
        "toothbrush",
        80,
    )
    person = of("keypointrcnn_resnet50_fpn")
    assert (
        person.names == ("person",)
        and person.keypoint_names == COCO_KEYPOINTS
        and len(person.skeleton) == 19
    )
    assert of("maskrcnn_debug") == DetectorClasses(
        ("class 1", "class 2", "class 3"), (1, 2, 3), ("keypoint 0", "keypoint 1")
    )
    saved = {
        "classes": dict(
            categories=["a", "b", "c"], category_ids=[3, 5, 9], keypoint_names=["head", "neck"]
        )
    }
    options = dict(name="maskrcnn_debug", canvas=96, long_side=96)
    metadata = {"model": options, "data": {"percentiles": [1, 99]}} | saved
    write_checkpoint(tmp_path / "d.safetensors", VARIABLES, metadata=metadata)
    loaded = segjax.Detector.load(
        tmp_path / "d.safetensors", overrides={"candidates": 64}, score_threshold=0.3
    )
    assert (
        loaded.names == ("a", "b", "c")
        and loaded.classes.ids == (3, 5, 9)
        and loaded.classes.skeleton == [(1, 0)]
    )
    assert (
        loaded.model == MODEL.replace_selection(candidates=64)
        and loaded.score_threshold == 0.3
        and loaded.percentiles == (1, 99)
    )
    assert segjax.Detector(
        MODEL, VARIABLES, score_threshold=0.01, max_detections=20
    ).model == MODEL.replace_selection(score_threshold=0.01, count=20)
    with pytest.raises(ValueError, match=r"names 3 classes \(a, b, c\), its model has 4"):
        resolve_classes(build_model("maskrcnn_debug", classes=4), saved)


@pytest.mark.slow
def test_an_exported_program_gives_the_same_detections(tmp_path, detector):
    images, sizes = make_noise(64, 96)[None], np.array([[60, 90]], np.int32)
    written = write_exported(tmp_path / "d.stablehlo", export_detector(MODEL, VARIABLES, (64, 96)))
    assert (
        written
        == (tmp_path / "d.stablehlo").stat().st_size
        > 4 * sum(x.size for x in jax.tree.leaves(VARIABLES))
    )
    detections = read_exported(tmp_path / "d.stablehlo").call(images, sizes)
    expected = module._detect_on_canvas(MODEL, detector.variables, images, sizes)
    assert detections.keys() == expected.keys() == get_output_names() and detections["valid"].any()
    for name, value in expected.items():
        np.testing.assert_allclose(detections[name], value, atol=2e-4, err_msg=name)
    (tmp_path / "bad").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"bad \(19 bytes\) is no program that jax.export wrote"):
        read_exported(tmp_path / "bad")
    with pytest.raises(ValueError, match="in multiples of 32"):
        export_detector(MODEL, VARIABLES, (64, 97))


def test_a_program_exported_without_variables_takes_them_first():
    exported = export_detector(MODEL, None, (64, 64), batch=2, platforms=["cuda"])
    assert exported.platforms == ("cuda",), "the platform need not be the local one"
    leaves = len(jax.tree.leaves(VARIABLES))
    assert [aval.shape for aval in exported.in_avals[leaves:]] == [(2, 64, 64, 3), (2, 2)]


def get_output_names():
    """Returns the names of the device outputs, from shapes alone."""
    detect = lambda variables, images, sizes: detect_on_canvas(MODEL, variables, images, sizes)
    images, sizes = np.zeros((1, 64, 64, 3), np.uint8), np.array([[64, 64]])
    shapes = jax.eval_shape(detect, VARIABLES, images, sizes)
    assert {"boxes", "scores", "labels", "valid", "masks", "keypoints"} <= shapes.keys()
    return shapes.keys()
