"""`segjax detect` and `segjax export`, and the other commands applied to a detector."""

import json

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from PIL import Image
from pycocotools.coco import COCO
from written_run import debug_variables

import segjax
from segjax.cli import main
from segjax.cli.evaluate import make_evaluation_config
from segjax.masks import decode_mask, encode_mask
from segjax.models.build import build_model, init_model
from segjax.models.mae import build_mae, init_mae
from segjax.weights.checkpoint import write_checkpoint

OPTIONS = {"name": "maskrcnn_debug", "canvas": 96, "long_side": 96}
MODEL = build_model(**OPTIONS)
CLASSES = dict(
    categories=["cat", "dog", "owl"], category_ids=[3, 5, 9], keypoint_names=["head", "neck"]
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Paths of a detector, a SAM and a MAE."""
    folder = tmp_path_factory.mktemp("weights")
    mae = build_mae("mae_debug")
    for name, variables, metadata in (
        ("detector", drawn_variables(MODEL, init_model), {"model": OPTIONS, "classes": CLASSES}),
        ("sam", debug_variables(), {"model": {"name": "sam_debug"}}),
        ("mae", drawn_variables(mae, init_mae), {"model": {"name": "mae_debug"}}),
    ):
        write_checkpoint(folder / f"{name}.safetensors", variables, metadata=metadata, canvas=64)
    return {name: str(folder / f"{name}.safetensors") for name in ("detector", "sam", "mae")}


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / "0000508.png", tmp_path / "12.png"]
    for path, hw in zip(paths, ((50, 70), (64, 40)), strict=True):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)).save(path)
    return [str(path) for path in paths]


def test_detect_writes_overlays_and_results_in_coco_s_format(weights, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        main(
            [
                "detect",
                *photos,
                "--checkpoint",
                weights["detector"],
                "--score",
                ".05",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert (
        f"{out}/0000508_detections.png  8 objects: " in printed
        and "--max-detections allows for more" in printed
    )
    assert f"{out}: detections.json, pictures.json" in printed
    pictures = COCO(out / "pictures.json")
    results = pictures.loadRes(str(out / "detections.json"))
    capsys.readouterr()
    assert pictures.imgs[508] == {"id": 508, "file_name": "0000508.png", "height": 50, "width": 70}
    assert [(c["id"], c["name"]) for c in pictures.cats.values()] == [
        (3, "cat"),
        (5, "dog"),
        (9, "owl"),
    ]
    detector = segjax.Detector.load(weights["detector"], score_threshold=0.05)
    for path, number, scale in zip(photos, (508, 12), (7, 8), strict=True):
        picture = np.asarray(Image.open(path))
        found, rows = detector([picture])[0], results.imgToAnns[number]
        assert [row["category_id"] for row in rows] == [
            (3, 5, 9)[label - 1] for label in found["labels"]
        ]
        for row, box, mask, points in zip(
            rows, found["boxes"], found["masks"], found["keypoints"], strict=True
        ):
            x, y, width, height = row["bbox"]
            np.testing.assert_allclose([x, y, x + width, y + height], box, atol=1e-4)
            np.testing.assert_array_equal(
                decode_mask(row["segmentation"]["counts"], *picture.shape[:2]), mask
            )
            np.testing.assert_allclose(
                np.reshape(row["keypoints"], (-1, 3))[:, :2], points[:, :2] - 0.5, atol=1e-4
            )
        overlay = np.asarray(Image.open(out / f"{path.rsplit('/', 1)[1][:-4]}_detections.png"))
        large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
        assert overlay.shape == large.shape and (overlay != large).mean() > 0.05


def test_detect_reports_images_without_detections(weights, photos, tmp_path, capsys):
    words = [
        "detect",
        photos[0],
        "--checkpoint",
        weights["detector"],
        "--score",
        "1",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(words) == 0
    assert "0000508_detections.png  nothing; lower --score" in capsys.readouterr().out
    assert json.loads((tmp_path / "o" / "detections.json").read_text()) == []
    large = np.asarray(Image.open(photos[0])).repeat(7, axis=0).repeat(7, axis=1)
    np.testing.assert_array_equal(Image.open(tmp_path / "o" / "0000508_detections.png"), large)


def test_detect_refines_masks_with_a_sam(weights, photos, tmp_path, monkeypatch):
    """tests/inference/test_sam_refinement.py covers the prompts and the masks."""

    asked = []

    def left_column(predictor, image, found, *, only_if_surer):
        assert predictor.model == build_model("sam_debug") and image.shape == (50, 70, 3)
        asked.append(only_if_surer)
        return found._replace(
            masks=[encode_mask(np.arange(70) < 1 + np.zeros((50, 1)))] * len(found.boxes)
        )

    monkeypatch.setattr("segjax.inference.detection.sam_refinement.refine_masks", left_column)
    words = [
        "detect",
        photos[0],
        "--checkpoint",
        weights["detector"],
        "--score",
        ".05",
        "--out",
        str(tmp_path),
    ]
    for options in (["--refine-if", "surer"], []):
        assert main([*words, "--refine", weights["sam"], *options]) == 0
    assert asked == [True, False]
    rows = json.loads((tmp_path / "detections.json").read_text())
    assert len(rows) == 8 and all(
        decode_mask(row["segmentation"]["counts"], 50, 70)[:, :1].all() for row in rows
    )


@pytest.mark.slow
def test_a_sam_draws_the_masks_of_detections(weights, photos, tmp_path):
    def masks(*options):
        words = [
            "detect",
            photos[0],
            "--checkpoint",
            weights["detector"],
            "--score",
            ".05",
            "--max-detections",
            "3",
        ]
        assert main([*words, "--out", str(tmp_path / "out"), *options]) == 0
        rows = json.loads((tmp_path / "out" / "detections.json").read_text())
        assert len(rows) == 3
        return [(row["bbox"], row["score"]) for row in rows], [
            row["segmentation"]["counts"] for row in rows
        ]

    (boxes, own), (same, drawn) = masks(), masks("--refine", weights["sam"])
    assert boxes == same and own != drawn
    model, variables = segjax.load(weights["sam"])
    predictor = segjax.SamPredictor(model, variables)
    predictor.set_image(np.asarray(Image.open(photos[0])))
    corners = np.array([box for box, _ in boxes])
    corners[:, 2:] += corners[:, :2]
    _, iou, low_res = predictor.predict_batch(boxes=corners)
    best = low_res[np.arange(3), iou.argmax(1)]
    want, _, _ = predictor.predict_batch(boxes=corners, mask_input=best, multimask_output=False)
    assert want.any()
    for counts, mask in zip(drawn, want[:, 0], strict=True):
        assert (decode_mask(counts, 50, 70) != mask).mean() < 0.01 or not mask.any()


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["predict", "--point", "3,3", "detector"],
            "this command takes a SAM. `segjax detect` finds the objects of",
        ),
        (
            ["everything", "detector"],
            "holds maskrcnn_debug; this command takes a SAM. `segjax detect`",
        ),
        (["reconstruct", "detector"], "takes a MAE (experiments/mae trains one). `segjax detect`"),
        (
            ["detect", "sam"],
            "takes a Mask R-CNN (experiments/mask_rcnn trains one). `segjax predict`, `segjax "
            "every",
        ),
        (
            ["detect", "mae"],
            "takes a Mask R-CNN (experiments/mask_rcnn trains one). `segjax reconstruct` shows",
        ),
        (
            ["detect", "--refine", "mae", "detector"],
            "holds mae_debug; this command takes a SAM. `segjax reconstruct`",
        ),
        (["detect", "--step", "3", "detector"], "is a single file, it has no step 3"),
        (
            ["detect", "--max-detections", "0", "detector"],
            "max_detections is 0; expected at least 1",
        ),
    ],
)
def test_commands_name_the_model_that_they_need(weights, photos, tmp_path, capsys, words, message):
    command, *options, kind = [
        weights.get(word, word) if n else word for n, word in enumerate(words)
    ]
    assert (
        main([command, photos[0], "--checkpoint", kind, "--out", str(tmp_path / "out"), *options])
        == 2
    )
    assert message in capsys.readouterr().err


def test_a_missing_image_is_reported_before_the_model_is_read(photos, tmp_path, capsys):
    assert (
        main(["detect", photos[0], "no.png", "--checkpoint", "nowhere", "--out", str(tmp_path)])
        == 2
    )
    assert "no image no.png" in capsys.readouterr().err


def test_refine_if_needs_refine(photos, tmp_path, capsys):
    words = [
        "detect",
        photos[0],
        "--checkpoint",
        "nowhere",
        "--refine-if",
        "surer",
        "--out",
        str(tmp_path),
    ]
    assert main(words) == 2
    assert "name its run or file with --refine" in capsys.readouterr().err


def test_export_writes_one_file(weights, tmp_path, capsys):
    out = str(tmp_path / "d.stablehlo")
    assert (
        main(
            [
                "export",
                weights["detector"],
                "--canvas",
                "64",
                "96",
                "--platforms",
                "cpu,cuda",
                "--out",
                out,
            ]
        )
        == 0
    )
    assert f"wrote {out}: 1 image on 64 x 96 pixels, for cpu, cuda, " in capsys.readouterr().out
    assert main(["export", weights["detector"], "--canvas", "60", "96", "--out", out]) == 2
    assert "canvases are ((60, 96),)" in capsys.readouterr().err
    assert main(["export", weights["sam"], "--out", out]) == 2
    assert "takes a Mask R-CNN" in capsys.readouterr().err


def test_convert_keeps_the_names_of_classes(weights, tmp_path, capsys):
    assert main(["convert", weights["detector"], str(tmp_path / "copy.safetensors")]) == 0
    assert "segjax, maskrcnn_debug, " in capsys.readouterr().out
    assert segjax.Detector.load(tmp_path / "copy.safetensors").names == ("cat", "dog", "owl")


@pytest.mark.parametrize(
    "name", ["maskrcnn_debug", "keypointrcnn_resnet50_fpn", "mask_rcnn_R_50_FPN", "vitdet_vit_b"]
)
def test_weights_of_any_detector_are_measured_by_the_detection_task(tmp_path, name):
    assert (
        main(["prepare", "synthetic", "--out", str(tmp_path / "data"), "--option", "count=1"]) == 0
    )
    config = make_evaluation_config(
        {"model": {"name": name}, "classes": {}}, str(tmp_path / "data"), "heldout", []
    )
    assert config.task == "detection" and "classes" not in config
