"""`segjax label`, `classify`, `everything --classes` and `predict --text` with small models."""

import json

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from PIL import Image

from segjax.cli import main
from segjax.data.synthetic.captions import CaptionedScenes
from segjax.masks import encode_mask
from segjax.models.clip.family import build_clip, init_clip
from segjax.models.sam.build import build_sam, init_sam
from segjax.weights.safetensors import save_variables

SCENE = CaptionedScenes("train", 4, size=64)[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an image, a CLIP, a SAM with text prompts, and masks in COCO's format."""
    folder = tmp_path_factory.mktemp("label")
    Image.fromarray(SCENE["image"]).save(folder / "scene.png")
    clip, sam = build_clip("clip_debug"), build_sam("sam_debug", text_width=16)
    save_variables(
        folder / "clip.safetensors",
        drawn_variables(clip, init_clip),
        {"model": {"name": "clip_debug"}},
    )
    save_variables(
        folder / "sam.safetensors",
        drawn_variables(sam, init_sam),
        {"model": {"name": "sam_debug", "text_width": 16}},
    )
    mask = np.zeros((64, 64), bool)
    mask[10:50, 10:40] = True
    rows = [
        {"id": 1, "image_id": 7, "segmentation": {"size": [64, 64], "counts": encode_mask(mask)}},
        {"id": 2, "image_id": 7, "segmentation": [[5, 5, 30, 5, 30, 30]], "bbox": [5, 5, 25, 25]},
        {"id": 3, "image_id": 7, "bbox": [40, 40, 20, 20]},
    ]
    image = {"id": 7, "file_name": "scene.png", "height": 64, "width": 64}
    content = {"images": [image], "annotations": rows}
    (folder / "data.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps([row | {"score": 0.5} for row in rows]))
    return folder


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_masks_and_boxes_get_names(folder, tmp_path, capsys):
    clip = folder / "clip.safetensors"
    options = ("--clip", clip, "--classes", "star,cross,arrow", "--out", tmp_path)
    assert run("label", folder / "data.json", *options) == 0
    content = json.loads((tmp_path / "labels.json").read_text())
    assert [row["name"] for row in content["categories"]] == ["star", "cross", "arrow"]
    assert content["images"] == [{"id": 7, "file_name": "scene.png", "height": 64, "width": 64}]
    assert len(content["annotations"]) == 3
    for row in content["annotations"]:
        assert row["image_id"] == 7 and row["category_id"] in (1, 2, 3) and 0 < row["score"] <= 1
    assert content["annotations"][2]["area"] == 400
    width, height = Image.open(tmp_path / "scene_labels.png").size
    assert width == height and width % 64 == 0  # small images are enlarged
    assert "3 masks" in capsys.readouterr().out
    # The output can be labeled again
    again = tmp_path / "again"
    assert run("label", tmp_path / "labels.json", folder, *options[:-1], again) == 0
    first, second = (json.loads((p / "labels.json").read_text()) for p in (tmp_path, again))
    assert [row["category_id"] for row in first["annotations"]] == [
        row["category_id"] for row in second["annotations"]
    ]


def test_unsure_names_are_left_out_and_counted(folder, tmp_path, capsys):
    options = ("--clip", folder / "clip.safetensors", "--classes", "star,cross", "--min-score", 1.0)
    assert run("label", folder / "data.json", *options, "--out", tmp_path) == 0
    out = capsys.readouterr().out
    content = json.loads((tmp_path / "labels.json").read_text())
    unnamed = 3 - len(content["annotations"])
    assert unnamed and f"{unnamed} without a name are left out" in out


def test_results_of_a_detector_find_their_image_by_id(folder, tmp_path):
    (tmp_path / "7.png").write_bytes((folder / "scene.png").read_bytes())
    options = ("--clip", folder / "clip.safetensors", "--classes", "star,cross")
    assert run("label", folder / "results.json", tmp_path, *options, "--out", tmp_path) == 0
    content = json.loads((tmp_path / "labels.json").read_text())
    assert content["images"][0]["file_name"] == "7.png"


def test_open_vocabulary_ap_matches_categories_by_name(folder, tmp_path, capsys):
    """The truth is what the labels say, with other ids: AP 1 for its classes."""
    clip = ("--clip", folder / "clip.safetensors", "--classes", "star,cross,arrow")
    assert run("label", folder / "data.json", *clip, "--out", tmp_path) == 0
    truth = json.loads((tmp_path / "labels.json").read_text())
    for row in truth["annotations"]:
        row["category_id"] += 10
    truth["categories"] = [
        {"id": 10 + c["id"], "name": c["name"].title()} for c in truth["categories"]
    ]
    truth["categories"] = truth["categories"][:2] + [{"id": 13, "name": "circle"}]
    kept = [row for row in truth["annotations"] if row["category_id"] < 13]
    truth["annotations"] = kept
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    measured = ("--truth", tmp_path / "truth.json", "--out", tmp_path / "out")
    assert run("label", folder / "data.json", *clip, *measured) == 0
    assert "has no category arrow" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    if kept:
        assert metrics["segm/AP"] == metrics["bbox/AP"] == pytest.approx(1.0)
    assert run("label", folder / "data.json", *clip[:2], "--classes", "dotted", *measured) == 2
    assert "has none of the classes dotted" in capsys.readouterr().err


def test_everything_with_names(folder, tmp_path, capsys):
    arguments = (
        *("everything", folder / "scene.png", "--checkpoint", folder / "sam.safetensors"),
        *("--points-per-side", 4, "--pred-iou", 0, "--stability", 0, "--out", tmp_path),
        *("--classes", "star,cross", "--clip", folder / "clip.safetensors"),
    )
    assert run(*arguments) == 0
    records = json.loads((tmp_path / "scene_masks.json").read_text())["annotations"]
    content = json.loads((tmp_path / "labels.json").read_text())
    assert records and len(content["annotations"]) == len(records)
    assert {row["category_name"] for row in records} <= {"star", "cross"}
    assert (tmp_path / "scene_labels.png").is_file()
    # The file of records is what `label` reads
    options = ("--clip", folder / "clip.safetensors", "--classes", "star,cross")
    again = tmp_path / "again"
    path = tmp_path / "scene_masks.json"
    assert run("label", path, folder / "scene.png", *options, "--out", again) == 0
    named = json.loads((again / "labels.json").read_text())["annotations"]
    assert [row["category_id"] for row in named] == [row["category_id"] for row in records]


def test_masks_of_a_turned_photograph(folder, tmp_path, capsys):
    """`everything` turns images upright, and `label` follows its masks."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(SCENE["image"][:40]).save(tmp_path / "turned.png", exif=exif)
    upright = np.zeros((64, 40), bool)
    upright[10:50, 10:30] = True
    row = {"image_id": 1, "segmentation": {"size": [64, 40], "counts": encode_mask(upright)}}
    content = {"images": [{"id": 1, "file_name": "turned.png"}], "annotations": [row]}
    (tmp_path / "masks.json").write_text(json.dumps(content))
    options = ("--clip", folder / "clip.safetensors", "--classes", "star,cross")
    assert run("label", tmp_path / "masks.json", *options, "--out", tmp_path / "out") == 0
    assert "turned upright" in capsys.readouterr().out
    image = json.loads((tmp_path / "out" / "labels.json").read_text())["images"][0]
    assert (image["height"], image["width"]) == (64, 40)


def test_predict_with_a_text(folder, tmp_path, capsys):
    common = ("predict", folder / "scene.png", "--checkpoint", folder / "sam.safetensors")
    clip = ("--clip", folder / "clip.safetensors", "--out", tmp_path)
    assert run(*common, "--text", "the red star", *clip, "--min-iou", -100) == 0
    report = json.loads((tmp_path / "scene_prediction.json").read_text())
    assert report["objects"][0]["text"] == "the red star"
    # Nothing is better than the best of nothing
    assert run(*common, "--text", "the red star", *clip, "--min-iou", 100) == 0
    assert "nothing found for 'the red star'" in capsys.readouterr().out
    report = json.loads((tmp_path / "scene_prediction.json").read_text())
    assert report["objects"][0]["masks"][0]["area"] == 0
    # Several texts, and one text with a point
    assert run(*common, "--text", "the star", "--text", "the cross", *clip) == 0
    assert len(json.loads((tmp_path / "scene_prediction.json").read_text())["objects"]) == 2
    assert run(*common, "--text", "the star", "--point", "20,20", *clip) == 0
    assert len(json.loads((tmp_path / "scene_prediction.json").read_text())["objects"]) == 1


def test_classify_images_and_folders(folder, tmp_path, capsys):
    clip = ("--clip", folder / "clip.safetensors")
    assert run("classify", folder / "scene.png", "--classes", "star,cross", *clip) == 0
    assert "star" in capsys.readouterr().out
    for name in ("star", "cross"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.png").write_bytes((folder / "scene.png").read_bytes())
    (tmp_path / "data" / "star" / "b.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert run("classify", "--folders", tmp_path / "data", *clip, "--out", out) == 0
    metrics = json.loads((out / "classes.json").read_text())
    # The same image is right in exactly one of the two folders
    assert metrics["top1"] == 0.5 and metrics["images"] == 2 and metrics["unreadable"] == 1
    assert "1 images could not be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("label", "data.json", "--classes", "star,star"), "'star' occurs twice"),
        (("label", "data.json", "--classes", ""), "expected names"),
        (("label", "clip.json", "--classes", "star"), "no valid JSON"),
        (("label", "empty.json", "--classes", "star"), "holds no masks"),
        (("label", "lost.json", "--classes", "star"), "no image absent.png"),
        (("everything", "scene.png", "--clip", "clip.safetensors"), "--clip without --classes"),
        (
            ("predict", "scene.png", "--clip", "clip.safetensors", "--point", "1,1"),
            "without --text",
        ),
        (("predict", "scene.png", "--text", "a", "--text", "b", "--point", "1,1"), "which belongs"),
        (("predict", "scene.png", "--text", "the star"), "has no text prompts"),
        (("classify", "scene.png"), "give images and --classes"),
        (("classify", "--folders", "."), "folders with images"),
        (("label", "data.json", "--classes", "tiger", "--clip", "clip.safetensors"), "not a word"),
        (("label", "data.json", "--classes", "star", "--clip", "sam.safetensors"), "takes a CLIP"),
    ],
)
def test_mistakes_are_told(folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(folder)
    (folder / "clip.json").write_text("{")
    (folder / "empty.json").write_text('{"images": [], "annotations": []}')
    row = {"image_id": 1, "bbox": [0, 0, 5, 5]}
    lost = {"images": [{"id": 1, "file_name": "absent.png"}], "annotations": [row]}
    (folder / "lost.json").write_text(json.dumps(lost))
    assert run(*arguments, "--out", tmp_path) == 2
    assert message in capsys.readouterr().err
