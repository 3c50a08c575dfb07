"""Readers of what users pass to predictors, and of the cache of image embeddings."""

import functools
import json

import jax
import numpy as np
import raw_folders
import written_run

import segjax
from fuzzing.harness import Reader
from fuzzing.raw_readers import PATHS
from fuzzing.verdicts import WrongValueError
from segjax.cli.inference.predict import read_prompts
from segjax.cli.inference.prompt_file import read_prompt_file
from segjax.cli.prepare import read_options
from segjax.images.decoding import decode_image
from segjax.inference.sam.automatic import SamAutomaticMaskGenerator
from segjax.models.sam.build import build_sam

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


@functools.cache
def _model():
    """Returns the smallest SAM and its variables."""
    return build_sam("sam_debug"), jax.tree.map(np.asarray, written_run.debug_variables())


@functools.cache
def _predictor():
    predictor = segjax.SamPredictor(*_model())
    predictor.set_image(IMAGE)
    return predictor


def _write_arguments(folder, **seeds):
    for name, arguments in seeds.items():
        (folder / name).mkdir()
        (folder / name / "arguments.json").write_text(json.dumps(arguments))


def _read_arguments(folder, known):
    """Returns the arguments with known names. Python itself refuses the others."""
    path = folder / "arguments.json"
    try:
        content = json.loads(path.read_text(errors="replace")) if path.exists() else {}
    except (ValueError, RecursionError):
        return {}
    content = content if isinstance(content, dict) else {}
    return {name: value for name, value in content.items() if name in known}


# Prompts

PROMPTS = ("point_coords", "point_labels", "box", "mask_input", "multimask_output")


def _make_prompts(folder):
    side = _model()[0].mask_side
    _write_arguments(
        folder,
        points={"point_coords": [[20, 10], [3.5, 4]], "point_labels": [1, 0]},
        box={"box": [2, 3, 30, 20.5], "multimask_output": False},
        mask={"mask_input": np.zeros((1, side, side)).tolist(), "box": [2, 3, 30, 20]},
    )


def _read_prompts(folder):
    arguments = _read_arguments(folder, PROMPTS)
    masks, iou, low_res = _predictor().predict(**arguments)
    if not (np.isfinite(iou).all() and np.isfinite(low_res).all()):
        raise WrongValueError(f"scores {iou.tolist()} that are not finite")


# Thresholds and other numbers

THRESHOLDS = {
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "stability_score_offset": 1.0,
    "box_nms_thresh": 0.7,
    "crop_nms_thresh": 0.7,
    "crop_overlap_ratio": 0.3,
    "min_mask_region_area": 0,
    "max_mask_area": 0.9,
    "percentiles": [1, 99],
}


def _read_thresholds(folder):
    # Other types than numbers are Python's business.
    arguments = {
        name: value
        for name, value in _read_arguments(folder, THRESHOLDS).items()
        if isinstance(value, int | float) or name == "percentiles"
    }
    decode_image(IMAGE, percentiles=arguments.get("percentiles"))
    generator = SamAutomaticMaskGenerator(*_model(), points_per_side=2, **arguments)
    for record in generator.generate(IMAGE):
        if not np.isfinite([record["predicted_iou"], record["stability_score"]]).all():
            raise WrongValueError("a score that is not finite")


# Texts of the command line


def _make_texts(folder):
    _write_arguments(
        folder,
        points={"points": ["20,10", "3,4,0"], "options": ["count=3", "sizes=(1, 2)"]},
        box={"boxes": ["1,2,30,40"]},
    )


def _read_texts(folder):
    arguments = _read_arguments(folder, ("points", "boxes", "options"))
    texts = {
        name: [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
        for name, value in arguments.items()
    }
    read_options(texts.get("options", []))
    for prompt in read_prompts(texts.get("points", []), texts.get("boxes", [])):
        _predictor().predict(
            point_coords=prompt["points"] or None,
            point_labels=prompt["labels"] or None,
            box=prompt["box"],
        )


# Prompt files


def _make_prompt_files(folder):
    rows = [{"image_id": 7, "bbox": [1, 2, 9, 8], "id": 1, "score": 0.5}]
    rows.append({"image_id": 7, "points": [[4, 5], [6, 7, 0]], "file_name": "7.jpg"})
    images = [{"id": 7, "file_name": "7.jpg"}]
    for name, content in (("results", rows), ("coco", {"images": images, "annotations": rows})):
        raw_folders.write_image(folder / name / "7.jpg")
        (folder / name / "boxes.json").write_text(json.dumps(content))


def _read_prompt_file(folder):
    read_prompt_file(str(folder / "boxes.json"), [])


# Embeddings


def _embed(folder):
    predictor = segjax.SamPredictor(*_model(), cache=folder)
    predictor.set_image(IMAGE)
    return np.asarray(predictor.features).tobytes()


NPY = ("(1, 4, 4, 32)", "(999999999999,)", "|O", "<f8", ">f4", "True", "descr", "shape", "'<V4'")
_NAMES = ("point", "box", "mask_input")

READERS = (
    Reader("prompts", _make_prompts, _read_prompts, words=_NAMES),
    Reader(
        "thresholds",
        lambda folder: _write_arguments(folder, a=THRESHOLDS),
        _read_thresholds,
        words=tuple(THRESHOLDS),
    ),
    Reader("texts", _make_texts, _read_texts, words=(*_NAMES, "--point", "--box", "--option")),
    Reader("prompt_files", _make_prompt_files, _read_prompt_file, tokens=PATHS),
    Reader("embeddings", lambda folder: _embed(folder / "a"), _embed, tokens=NPY, exact=True),
)
