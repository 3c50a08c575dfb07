"""The `segjax` command: train, predict, everything, eval, prepare, convert and models."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from full_disk import full_disk
from PIL import Image
from pycocotools import mask as coco_mask
from written_run import moved_by, write_run

import segjax
from segjax.cli import main
from segjax.cli.evaluate import make_evaluation_config
from segjax.cli.experiments import read_config
from segjax.cli.inference.predict import read_prompts
from segjax.cli.overrides import apply_flags
from segjax.data.threads import count_usable_cores
from segjax.evaluation.interactive_scores import InteractiveScores
from segjax.inference.loading import load_with_config
from segjax.masks import decode_mask, decode_rle
from segjax.models.sam.build import build_sam
from segjax.tasks import make_task
from segjax.tasks.promptable.config import promptable_config
from segjax.tasks.promptable.task import Promptable

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return str(write_run(tmp_path_factory.mktemp("run")))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 47, 3), np.uint8)).save(path)
    return str(path)


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "small.py").write_text(
        "from segjax.tasks.promptable.config import promptable_config\n"
        "def get_config(variant=''):\n"
        "    config = promptable_config()\n"
        "    config.total_steps = 7 if variant == 'debug' else 70\n"
        "    return config\n"
    )
    monkeypatch.chdir(tmp_path)
    return "experiments/small.py"


@pytest.fixture
def trained(monkeypatch):
    """Records the arguments of the training loop, which does not run."""
    calls = []
    monkeypatch.setattr("segjax.tasks.make_task", lambda config: f"task of {config.task}")
    monkeypatch.setattr("segjax.training.loop.train", lambda *arguments: calls.append(arguments))
    return calls


def failed(capsys, *argv):
    """Runs a command that must end with status 2 and returns its standard error."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    "status, command", [(141, ["shown"]), (141, ["at_once"]), (2, ["refused"])]
)
def test_the_reader_of_the_output_may_close_it(status, command):
    """Covers `segjax models | head -1`: no traceback, but other errors are reported."""
    program = (
        "import sys, types; from segjax import cli\n"
        "def refuse(*_): raise BrokenPipeError('another pipe')\n"
        "runs = dict(shown=lambda *_: print('x'), refused=refuse)\n"
        "runs['at_once'] = lambda *_: print('x', flush=True)\n"
        "for name, run in runs.items():\n"
        "    command = dict(run=run, add_arguments=lambda parser: None, __doc__='')\n"
        "    sys.modules[name] = types.SimpleNamespace(**command)\n"
        "    cli.COMMANDS[name] = (name, '')\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    reader, writer = os.pipe()
    if status == 141:
        os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", program, *command], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    if status == 2:
        os.close(reader)
    assert done.returncode == status
    assert done.stderr == (
        "" if status == 141 else "segjax refused: another pipe\n(--debug shows where)\n"
    )


def test_train_calls_the_loop_with_task_config_and_workdir(experiment, trained):
    changes = [
        "--config.optimizer.peak_lr=0.5",
        "--config.data.train_split=mine",
        "--config.data.percentiles=(1,99)",
    ]
    assert (
        main(
            [
                "train",
                f"--config={experiment}:debug",
                "--workdir=runs/x",
                "--config.seed",
                "3",
                *changes,
            ]
        )
        == 0
    )
    task, config, workdir = trained[0]
    assert (task, workdir) == ("task of promptable", "runs/x")
    assert (config.total_steps, config.seed, config.optimizer.peak_lr) == (7, 3, 0.5)
    assert tuple(config.data.percentiles) == (1, 99) and config.data.train_split == "mine"


def test_processes_join_first_and_only_by_flag(experiment, trained, monkeypatch, capsys):
    joined = []
    monkeypatch.setenv("SEGJAX_GUARDED", "by the test")
    join = lambda *named, **timeouts: joined.append(
        (named, timeouts["heartbeat_timeout_seconds"], len(trained))
    )
    monkeypatch.setattr(jax.distributed, "initialize", join)
    monkeypatch.setattr(
        jax, "default_backend", lambda: "gpu"
    )  # keep the cache of compiled programs
    command = ["train", f"--config={experiment}", "--workdir=runs/x"]
    main(command)
    assert joined == []
    main(
        [
            *command,
            "--coordinator=localhost:1234",
            "--processes=2",
            "--process_id=1",
            "--heartbeat_timeout=20",
        ]
    )
    assert joined == [(("localhost:1234", 2, 1), 20, 1)]
    assert "process 0 of 1 on " in capsys.readouterr().err
    assert "go together" in failed(capsys, *command, "--processes=2")
    assert "--join_timeout is 0; expected" in failed(
        capsys, *command, "--distributed", "--join_timeout=0"
    )
    assert "unknown argument" in failed(capsys, *command, "--distributed", "--heartbeat=3")
    assert len(joined) == 1, "mistakes are reported before waiting for other processes"


def test_a_kernel_for_other_devices_is_refused_with_the_name_of_its_setting(
    experiment, trained, capsys
):
    command = "train", f"--config={experiment}:debug", "--workdir=runs/x"
    message = failed(capsys, *command, "--config.model.attention=pallas")
    assert (
        "config.model.attention='pallas' is a kernel for TPUs, and jax finds a CPU" in message
        and "=xla" in message
    )
    assert (
        "kernel for GPUs" in failed(capsys, *command, "--config.model.attention=cudnn")
        and not trained
    )


def test_a_missing_experiment_is_reported_with_the_nearest_and_the_others(
    experiment, trained, capsys
):
    message = failed(capsys, "train", "--config=experiments/smal.py", "--workdir=runs/x")
    assert "no experiment experiments/smal.py; did you mean experiments/small.py?" in message
    assert "experiments/small.py" in failed(
        capsys, "train", "--config=nowhere/deep/small.py", "--workdir=runs/x"
    )
    assert not trained and not pathlib.Path("runs").exists()


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--config.optimizer.peek_lr=1", "no key 'optimizer.peek_lr'; nearest: optimizer.peak_lr"),
        ("--config.peak_lr=1", "optimizer.peak_lr"),
        ("--total_steps=3", "unknown argument --total_steps; did you mean --config.total_steps?"),
        ("--config.total_steps=many", "total_steps"),
        ("surplus", "unexpected argument 'surplus'"),
    ],
)
def test_a_misspelled_flag_is_reported_with_the_nearest(experiment, trained, capsys, flag, message):
    assert message in failed(capsys, "train", f"--config={experiment}", "--workdir=runs/x", flag)
    assert not trained


def test_an_experiment_is_a_file_with_get_config(tmp_path):
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match="has no get_config"):
        read_config(str(tmp_path / "empty.py"))


def test_flags_keep_the_type_of_a_field():
    config = apply_flags(
        promptable_config(), ["--config.mesh.fsdp=4", "--config.model.name=sam_tiny"]
    )
    assert config.mesh.fsdp == 4 and config.model.name == "sam_tiny"


def partial_config():
    """Makes a config as experiments do, without the attributes that the file does not set."""
    config = promptable_config()
    config.model = {"name": "sam_vit_b", "drop_path": 0}
    config.data.augment = {"flip": True}
    return config.lock()


def test_flags_reach_fields_that_the_experiment_leaves_out():
    flags = [
        "--config.model.drop_path=0.25",
        "--config.model.dtype=bfloat16",
        "--config.model.global_blocks=(1,3)",
    ]
    flags += [
        "--config.data.augment.scale=(0.5,2)",
        "--config.data.augment.quarter_turns",
        "--config.model.scan=true",
    ]
    config = apply_flags(partial_config(), flags)
    model = {
        "name": "sam_vit_b",
        "drop_path": 0.25,
        "dtype": "bfloat16",
        "global_blocks": (1, 3),
        "scan": True,
    }
    assert config.model.to_dict() == model, (
        "unnamed attributes stay out: the model's name implies them"
    )
    assert config.data.augment.to_dict() == {"flip": True, "scale": (0.5, 2), "quarter_turns": True}
    assert config.is_locked


def test_the_model_named_on_the_command_line_decides_what_is_left_out():
    flags = [
        "--config.model.name=sam_debug",
        "--config.model.depth=2",
        "--config.model.global_blocks=(1,)",
    ]
    model = make_task(apply_flags(partial_config(), flags)).model
    assert (model.width, model.depth, model.canvas, model.drop_path) == (32, 2, 64, 0.0)


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--config.model.drop_pth=0.1", "no key 'model.drop_pth'; nearest: model.drop_path"),
        ("--config.data.augment.flp=true", "no key 'data.augment.flp'; nearest: data.augment.flip"),
        ("--config.model.parent=1", "no key 'model.parent'"),
        ("--config.model.depth=deep", "model.depth=deep"),
        ("--config.data.augment.flip=perhaps", "augment.flip=perhaps"),
        (
            "--config.data.augment={}",
            "'data.augment' is a group of keys; set them one by one: data.augment.bri",
        ),
    ],
)
def test_a_field_that_the_experiment_leaves_out_is_checked_too(flag, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        apply_flags(partial_config(), [flag])


def test_predict_writes_masks_overlay_and_json_that_agree(run, photo, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--point", "20,9", "--point", "40,3,0", "--box", "3,4,30,25.5", "--out", str(out)]
    assert main(["predict", photo, "--checkpoint", run, *arguments]) == 0
    names = ["photo_mask_0.png", "photo_overlay.png", "photo_prediction.json"]
    assert sorted(p.name for p in out.iterdir()) == names
    report = json.loads((out / "photo_prediction.json").read_text())
    (thing,) = report["objects"]
    assert (
        thing["points"] == [[20, 9], [40, 3]]
        and thing["labels"] == [1, 0]
        and thing["box"] == [3, 4, 30, 25.5]
    )
    (entry,) = thing["masks"]
    mask = np.asarray(Image.open(out / "photo_mask_0.png")) > 0
    mask = mask if mask.ndim == 2 else mask[..., 0]
    assert mask.shape == (30, 47) and entry["area"] == mask.sum()
    np.testing.assert_array_equal(decode_mask(entry["rle"]["counts"], *entry["rle"]["size"]), mask)
    assert np.asarray(Image.open(out / "photo_overlay.png")).shape[1] % 47 == 0
    assert f"{entry['predicted_iou']:.3f}" in capsys.readouterr().out


def test_predict_writes_several_objects_and_all_masks(run, photo, tmp_path):
    out = tmp_path / "out"
    clicks = ["--separate", "--point", "20,9", "--point", "5,5"]
    assert (
        main(["predict", photo, "--checkpoint", run, *clicks, "--multimask", "--out", str(out)])
        == 0
    )
    report = json.loads((out / "photo_prediction.json").read_text())
    assert [len(thing["masks"]) for thing in report["objects"]] == [3, 3]
    assert (out / "photo_mask_1_2.png").is_file() and (out / "photo_candidates.png").is_file()
    # The files of a second call are all there is; other files stay.
    (out / "other_mask_0.png").write_bytes(b"")
    assert main(["predict", photo, "--checkpoint", run, "--point", "20,9", "--out", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "other_mask_0.png",
        "photo_mask_0.png",
        "photo_overlay.png",
        "photo_prediction.json",
    ]


def test_points_and_boxes_are_grouped_into_objects():
    assert read_prompts(["1,2", "3,4,0"], []) == [
        {"points": [[1, 2], [3, 4]], "labels": [1, 0], "box": None}
    ]
    assert [p["box"] for p in read_prompts([], ["1,2,3,4", "5,6,7,8"])] == [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
    ]
    assert [p["points"] for p in read_prompts(["1,2", "3,4"], [], separate=True)] == [
        [[1, 2]],
        [[3, 4]],
    ]


def test_predict_takes_boxes_and_points_of_many_images_from_a_file(run, tmp_path, capsys):
    """Rows keep their category and score; a box that reaches beyond the image is clipped."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, width in (("a.png", 40), ("000000000007.png", 50)):
        noise = np.random.default_rng(width).integers(0, 255, (30, width, 3), np.uint8)
        Image.fromarray(noise).save(folder / name)
    rows = [
        {"image_id": 1, "category_id": 3, "bbox": [2, 3, 10, 12], "id": 11},
        {"image_id": 1, "category_id": 4, "bbox": [20, 5, 30, 12], "score": 0.5},
        {"image_id": 7, "points": [[20, 9], [40, 3, 0]]},
    ]
    images = [{"id": 1, "file_name": "a.png"}, {"id": 7, "file_name": "000000000007.png"}]
    coco = tmp_path / "images" / "boxes.json"
    coco.write_text(json.dumps({"images": images, "annotations": rows}))
    out = tmp_path / "out"
    command = ["predict", "--checkpoint", run, "--prompts", str(coco), "--out", str(out)]
    assert main(command) == 0
    assert "1 boxes are clipped to the image" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert [(row["image_id"], row["category_id"]) for row in results] == [(1, 3), (1, 4), (7, 1)]
    assert results[0]["id"] == 11 and results[1]["score"] == 0.5
    assert results[2]["score"] == results[2]["predicted_iou"]
    sizes = [decode_rle(row["segmentation"]).shape for row in results]
    assert sizes == [(30, 40), (30, 40), (30, 50)]
    assert sorted(path.name for path in out.glob("*.png")) == [
        "000000000007_overlay.png",
        "a_overlay.png",
    ]
    # A box has the mask that it has on its own.
    single = ["--box", "2,3,12,15", "--out", str(tmp_path / "single")]
    assert main(["predict", str(folder / "a.png"), "--checkpoint", run, *single]) == 0
    report = json.loads((tmp_path / "single" / "a_prediction.json").read_text())
    assert report["objects"][0]["masks"][0]["rle"] == results[0]["segmentation"]
    # A detector's results name images by number; the folder comes from the command line.
    found = [{"image_id": 7, "category_id": 2, "bbox": [1, 2, 9, 9], "score": 0.9}]
    coco.write_text(json.dumps(found))
    assert main([*command[:1], str(folder), *command[1:]]) == 0
    (row,) = json.loads((out / "results.json").read_text())
    assert (row["image_id"], row["category_id"], row["score"]) == (7, 2, 0.9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no valid JSON"),
        ("{}", "holds no prompts; expected COCO's"),
        ([{"bbox": [1, 2, 3, 4]}], "row 0 has no image_id"),
        ([{"image_id": 1}], "row 0 has neither a bbox nor points"),
        ([{"image_id": 1, "bbox": [1, 2, -3, 4]}], "has no area"),
        ([{"image_id": 1, "bbox": [1, "2", 3, 4]}], "expected 4 finite numbers"),
        ([{"image_id": 1, "points": [[1, 2, 5]]}], "expected 1 (on it) or 0"),
        ([{"image_id": 1, "points": 3}], "expected [[x, y], [x, y, label], ...]"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4]}], "no image with the id 1 in"),
        ([{"image_id": 1, "file_name": "x.png", "bbox": [1, 2, 3, 4]}], "no image x.png in"),
        ([{"image_id": 1, "file_name": "../x.png", "bbox": [1, 2, 3, 4]}], "leads outside"),
        ({"annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}, "no list of images"),
    ],
)
def test_a_prompt_file_that_cannot_be_meant_is_an_error(tmp_path, capsys, content, message):
    file = tmp_path / "prompts.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    command = "predict", "--checkpoint", "nowhere", "--prompts", str(file), "--out", "out"
    assert message in failed(capsys, *command)


def test_a_folder_that_cannot_be_written_is_reported_before_the_computation(
    run, photo, tmp_path, capsys
):
    (tmp_path / "file").write_text("")
    out = ["--out", str(tmp_path / "file" / "results")]
    for command in (
        ["predict", photo, "--point", "1,2"],
        ["everything", photo],
        ["detect", photo],
        ["reconstruct", photo],
        ["eval"],
    ):
        message = failed(capsys, *command, "--checkpoint", "nowhere", *out)
        assert "cannot hold results" in message and "is a file, not a folder" in message


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "give at least one --point"),
        (["--point", "3"], "--point '3': expected X,Y"),
        (["--point", "a,b"], "--point 'a,b'"),
        (["--point", "3,4,5"], "label 5"),
        (["--box", "1,2,3"], "--box '1,2,3'"),
        (["--point", "1,2", "--box", "1,2,3,4", "--box", "5,6,7,8"], "which belongs to which"),
        (["--point", "470,3"], r"point (470, 3) is outside the image"),
        (["--box", "30,2,3,4"], "x1 < x2"),
        (["--point", "1,2", "--model", "sam_tinny"], "nearest: sam_tiny"),
        (["--point", "1,2", "--model", "sam_tiny"], "another architecture"),
        (["--point", "1,2", "--step", "9"], "no checkpoint of step 9"),
        (["--point", "1,2", "--step", "best"], "no best checkpoint in"),
        (["--point", "1,2", "--prompts", "boxes.json"], "leave --point, --box and --text out"),
    ],
)
def test_predict_refuses_invalid_arguments(run, photo, tmp_path, capsys, arguments, message):
    assert message in failed(
        capsys, "predict", photo, "--checkpoint", run, *arguments, "--out", str(tmp_path / "out")
    )
    assert not (tmp_path / "out").exists()


def test_predict_names_an_unreadable_image(run, photo, tmp_path, capsys):
    rest = ["--checkpoint", run, "--point", "1,2", "--out", str(tmp_path / "out")]
    assert "nowhere.png" in failed(capsys, "predict", "nowhere.png", *rest)
    (tmp_path / "empty.png").write_bytes(b"")
    assert "empty.png: the file is empty" in failed(
        capsys, "predict", str(tmp_path / "empty.png"), *rest
    )
    (tmp_path / "cut.png").write_bytes(pathlib.Path(photo).read_bytes()[:600])
    assert "cut.png" in failed(capsys, "predict", str(tmp_path / "cut.png"), *rest)


def test_everything_writes_records_and_an_overlay(run, photo, tmp_path, capsys):
    out = tmp_path / "out"
    loose = ["--points-per-side", "2", "--pred-iou=-9", "--stability=0", "--nms=1"]
    assert main(["everything", photo, "--checkpoint", run, "--out", str(out), *loose]) == 0
    content = json.loads((out / f"{pathlib.Path(photo).stem}_masks.json").read_text())
    with Image.open(photo) as image:
        size = image.size
    assert (content["image"]["width"], content["image"]["height"]) == size
    assert content["image"]["file_name"] == pathlib.Path(photo).name
    assert 0 < len(content["annotations"]) <= 12
    for annotation in content["annotations"]:
        assert coco_mask.area(annotation["segmentation"]) == annotation["area"] > 0
    with Image.open(out / f"{pathlib.Path(photo).stem}_masks.png") as image:
        assert image.size == size
    assert f"{len(content['annotations'])} masks" in capsys.readouterr().out


def test_everything_reports_empty_results_and_equal_names(run, photo, tmp_path, capsys):
    command = [
        "everything",
        "--checkpoint",
        run,
        "--points-per-side",
        "1",
        "--pred-iou=1e9",
        "--out",
        str(tmp_path),
    ]
    assert main([*command, photo]) == 0
    assert "0 masks; lower --pred-iou" in capsys.readouterr().out
    assert "two images are called" in failed(capsys, *command, photo, photo)
    assert "no image typo.jpg" in failed(capsys, *command, photo, "typo.jpg")


def test_everything_on_a_full_disk_leaves_only_complete_files(run, photo, tmp_path, capsys):
    loose = ["--points-per-side", "2", "--pred-iou=-9", "--stability=0", "--nms=1"]
    command = ["everything", photo, "--checkpoint", run, *loose, "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert set(whole) == {"photo_masks.json", "photo_masks.png"}
    capsys.readouterr()
    for name, content in whole.items():
        out = tmp_path / name
        with full_disk(len(content) - 1):
            assert main([*command, str(out)]) == 2
        message = capsys.readouterr().err
        assert f"File too large: {out}/photo_masks." in message and "Traceback" not in message
        left = {path.name: path.read_bytes() for path in out.iterdir()}
        assert name not in left and left.items() <= whole.items()


def test_debug_shows_the_traceback(photo, capsys):
    assert (
        main(
            [
                "predict",
                photo,
                "--checkpoint",
                "nowhere",
                "--point",
                "1,2",
                "--out",
                "out",
                "--debug",
            ]
        )
        == 2
    )
    assert "Traceback" in capsys.readouterr().err


class MeasuredTask:
    """Task that records its config and variables, and returns the scores of one object."""

    def __init__(self, config):
        self.config = config
        MeasuredTask.last = self

    def init(self, key):
        return {"params": {"fresh": jax.random.normal(key)}}

    def interactive_scores(self, variables, *, mesh):
        self.variables = variables
        iou = np.array(
            [[0.125, 0.25] if "fresh" in variables["params"] else [0.5, 0.75]], np.float32
        )
        return InteractiveScores(
            iou, iou, np.array([0.625], np.float32), np.array([0.1], np.float32), images=1
        )

    write_evaluation = Promptable.write_evaluation


def test_eval_measures_a_run_on_other_data(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("segjax.tasks.make_task", MeasuredTask)
    data, out = str(tmp_path / "scenes"), tmp_path / "out"
    prepared = [
        "prepare",
        "synthetic",
        "--out",
        data,
        "--option",
        "count=2",
        "--option",
        "size=48",
        "--splits",
        "heldout",
    ]
    assert main(prepared) == 0
    assert "heldout: 2 images" in capsys.readouterr().out
    assert (
        main(
            [
                "eval",
                "--checkpoint",
                run,
                "--data",
                data,
                "--out",
                str(out),
                "--config.eval.limit=5",
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "0.500   0.750" in printed and "NoC@85 2.00" in printed and "0.625" in printed
    assert json.loads((out / "interactive.json").read_text())["trained"]["iou@2"] == 0.75
    assert Image.open(out / "curve.png").width > 100
    config = MeasuredTask.last.config
    assert (config.data.source, config.data.eval_split, config.eval.limit) == (data, "heldout", 5)
    assert config.model.name == "sam_debug"
    jax.tree.map(np.testing.assert_array_equal, MeasuredTask.last.variables["params"], moved_by(2))


def test_eval_measures_untrained_parameters_too(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("segjax.tasks.make_task", MeasuredTask)
    assert main(["eval", "--checkpoint", run, "--untrained", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "interactive.json").read_text())
    assert {name: numbers["iou@1"] for name, numbers in report.items()} == {
        "trained": 0.5,
        "untrained": 0.125,
    }
    printed = capsys.readouterr().out
    assert (
        printed.index("trained\n") < printed.index("0.500   0.750") < printed.index("0.125   0.250")
    )


def test_eval_measures_the_chosen_step(tmp_path, monkeypatch):
    monkeypatch.setattr("segjax.tasks.make_task", MeasuredTask)
    numbers = {1: {"iou@1": 0.9}, 2: {"iou@1": 0.4}}
    run = write_run(tmp_path, steps=(1, 2, 3), best="iou@1", numbers=numbers)
    for step, amount in (("best", 1), ("2", 2)):
        assert (
            main(["eval", "--checkpoint", str(run), "--step", step, "--out", str(tmp_path / "out")])
            == 0
        )
        jax.tree.map(
            np.testing.assert_array_equal, MeasuredTask.last.variables["params"], moved_by(amount)
        )


def test_eval_measures_weights_without_a_run(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("segjax.tasks.make_task", MeasuredTask)
    weights, data = str(tmp_path / "weights.pth"), str(tmp_path / "scenes")
    assert main(["convert", run, weights, "--canvas", "96"]) == 0
    small = ["--splits", "heldout", "--option", "count=1", "--option", "size=48"]
    assert main(["prepare", "synthetic", "--out", data, *small]) == 0
    out = ["--out", str(tmp_path / "out")]
    assert main(["eval", "--checkpoint", weights, "--data", data, *out]) == 0
    config = MeasuredTask.last.config
    assert (config.model.name, config.model.canvas, config.eval.num_points) == ("sam_debug", 96, 9)
    assert (config.data.source, config.data.eval_split) == (data, "heldout")
    assert MeasuredTask.last.variables["params"]["image_encoder"]["pos_embed"].shape == (
        1,
        6,
        6,
        32,
    )
    capsys.readouterr()
    assert "come without a run and its data" in failed(
        capsys, "eval", "--checkpoint", weights, *out
    )


def test_a_run_older_than_a_setting_gets_its_default():
    saved = promptable_config().to_dict()
    del saved["eval"]["num_points"], saved["seed"]
    saved["eval"]["limit"], saved["model"] = (
        3,
        {"name": "sam_debug", "depth": 2, "global_blocks": [1]},
    )
    saved["data"]["augment"] = {"flip": True}
    config = make_evaluation_config(saved, None, None, ["--config.model.dtype=bfloat16"])
    assert (config.eval.num_points, config.seed, config.eval.limit) == (9, 0, 3)
    assert (config.model.width, config.model.depth, config.model.global_blocks) == (32, 2, (1,))
    assert make_task(config).model == build_sam(
        "sam_debug", depth=2, global_blocks=(1,), dtype="bfloat16"
    )


def test_eval_refuses_invalid_arguments(run, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert "not prepared data" in failed(
        capsys, "eval", "--checkpoint", run, "--data", str(tmp_path), *out
    )
    assert "without --data" in failed(capsys, "eval", "--checkpoint", run, "--split", "val", *out)
    assert "eval.limit" in failed(capsys, "eval", "--checkpoint", run, "--config.eval.limt=2", *out)
    assert "no checkpoint" in failed(capsys, "eval", "--checkpoint", str(tmp_path), *out)


def test_prepare_refuses_invalid_arguments(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert "unknown data source 'cocoo'; nearest: coco" in failed(
        capsys, "prepare", "cocoo", "raw", *out
    )
    assert "nowhere" in failed(capsys, "prepare", "coco", str(tmp_path / "nowhere"), *out)
    assert "colour" in failed(capsys, "prepare", "synthetic", *out, "--option", "colour=red")
    assert "KEY=VALUE" in failed(capsys, "prepare", "synthetic", *out, "--option", "colour")


def test_models_lists_sizes_with_their_parameters_and_the_published_weights(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    assert (
        lines["sam_vit_b"] == ["1024", "ViT", "768", "x", "12,", "patch", "16", "93,735,472"]
        and "sam_debug" in lines
    )
    assert (
        "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth\n"
        "  sam_vit_b, 375,042,383" in printed
    )
    assert str(tmp_path / "segjax" / "weights") in printed and "not in the cache" in printed


def test_convert_round_trips_through_every_format(run, tmp_path, capsys):
    """Goes from a run to .pth, transformers' .safetensors and segjax's: the same arrays."""
    chain = [run, *(str(tmp_path / name) for name in ("a.pth", "b.safetensors", "c.safetensors"))]
    formats = [[], ["--format", "huggingface"], []]
    for source, target, words in zip(chain[:-1], chain[1:], formats, strict=True):
        assert main(["convert", source, target, *words]) == 0
    printed = capsys.readouterr().out.splitlines()
    arrays = len(jax.tree.leaves(segjax.load(run)[1]))
    count = sum(x.size for x in jax.tree.leaves(segjax.load(run)[1]["params"]))
    assert printed[1].startswith(
        f"wrote {chain[1]}: official, {arrays} arrays, {count:,} parameters, "
    )
    assert printed[2].startswith(f"read {chain[1]}: official, sam_debug, {arrays} arrays, ")
    assert printed[3].startswith(f"wrote {chain[2]}: huggingface, {arrays + 1} arrays, ")
    assert printed[5].startswith(f"wrote {chain[3]}: segjax, {arrays} arrays, ")
    jax.tree.map(np.testing.assert_array_equal, segjax.load(chain[-1])[1], segjax.load(run)[1])


def test_convert_keeps_the_metadata_of_a_run(run, tmp_path):
    assert main(["convert", run, str(tmp_path / "x.safetensors"), "--canvas", "96"]) == 0
    model, variables, saved = load_with_config(tmp_path / "x.safetensors")
    assert (model.canvas, model.drop_path) == (96, 0.25)
    assert variables["params"]["image_encoder"]["pos_embed"].shape == (1, 6, 6, 32)
    assert saved["data"]["percentiles"] == [1.0, 99.0]


@pytest.mark.parametrize(
    "words, message",
    [
        (["x.npz"], "x.npz is of an unknown kind; expected .safetensors or, for torch, .pth"),
        (["x.pth", "--format", "segjax"], "write a .safetensors"),
        (["x.pth", "--format", "hugingface"], "choose one of segjax, official, huggingface"),
        (["x.pth", "--model", "sam_tiny"], "another architecture"),
        (["x.pth", "--step", "7"], "no checkpoint of step 7"),
        (["x.pth", "--canvas", "90"], "canvas 90 is not a multiple of the patch 16"),
    ],
)
def test_convert_refuses_invalid_arguments_and_writes_nothing(
    run, tmp_path, capsys, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", run, *words]) == 2
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_convert_to_a_full_disk_keeps_the_earlier_file_only(run, tmp_path, capsys, name):
    target = tmp_path / "out" / name
    target.parent.mkdir()
    target.write_bytes(b"earlier")
    with full_disk(50_000):
        assert main(["convert", run, str(target)]) == 2
    message = capsys.readouterr().err
    assert "File too large" in message and str(target) in message and "Traceback" not in message
    assert target.read_bytes() == b"earlier" and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["eval"],
        ["predict"],
        ["everything"],
        ["reconstruct"],
        ["prepare"],
        ["convert"],
        ["models"],
    ],
)
def test_help_is_quick_and_has_examples(command):
    words = [sys.executable, "-X", "importtime", "-m", "segjax", *command, "--help"]
    run = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0 and f"usage: segjax {' '.join(command)}".strip() in run.stdout
    assert " jax\n" not in run.stderr  # help must not wait for jax
    if command != ["models"]:
        assert "  segjax " in run.stdout


@pytest.mark.parametrize(
    "command",
    [["trian"], [], ["models", "surplus"], ["predict", "x.png"], ["eval", "--step", "newest"]],
)
def test_an_invalid_command_line_ends_with_status_2(command, capsys):
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert "usage: segjax" in capsys.readouterr().err


def test_compiled_programs_are_cached_for_the_user_or_in_a_chosen_folder(tmp_path):
    ask = "import jax, segjax.cli as c; c.keep_compiled_programs(); "
    ask += "print(jax.config.jax_compilation_cache_dir)"
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")
    }
    folders = {}
    for name, extra in (("default", {}), ("chosen", {"JAX_COMPILATION_CACHE_DIR": "/elsewhere"})):
        environment = clean | {"XDG_CACHE_HOME": str(tmp_path)} | extra
        run = subprocess.run(
            [sys.executable, "-c", ask], capture_output=True, text=True, env=environment, check=True
        )
        folders[name] = run.stdout.strip()
    default = str(tmp_path / "segjax" / "jax" / f"{count_usable_cores()}-cores")
    assert folders == {"default": default, "chosen": "/elsewhere"}


@pytest.mark.slow
def test_train_eval_and_predict_work_in_sequence(tmp_path, photo):
    command = [sys.executable, "-m", "segjax"]
    small = {
        "total_steps": 2,
        "batch_size": 2,
        "model.name": "sam_debug",
        "rounds.count": 3,
        "eval.num_points": 2,
    }
    small |= {
        "optimizer.warmup_steps": 1,
        "data.scenes.size": 64,
        "data.scenes.eval_count": 2,
        "data.cache_mb": 0,
    }
    flags = [f"--config.{name}={value}" for name, value in small.items()]
    for arguments in (
        [
            "train",
            "--config=experiments/sam/quickstart.py",
            f"--workdir={tmp_path / 'run'}",
            *flags,
        ],
        ["eval", "--checkpoint", str(tmp_path / "run"), "--out", str(tmp_path / "eval")],
        [
            "predict",
            photo,
            "--checkpoint",
            str(tmp_path / "run"),
            "--point",
            "20,9",
            "--out",
            str(tmp_path / "out"),
        ],
    ):
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        run = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment
        )
        assert run.returncode == 0, run.stderr
    assert "iou@1" in (tmp_path / "eval" / "interactive.json").read_text()
    assert (tmp_path / "eval" / "pictures.png").is_file()
    assert (tmp_path / "out" / "photo_overlay.png").is_file()
