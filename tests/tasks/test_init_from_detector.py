"""A detector of other classes as a start: all but the last layers, from every kind of file."""

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax.models.build import build_model, init_model, variable_shapes
from segjax.tasks import make_task
from segjax.tasks.detection.config import detection_config
from segjax.tasks.detection.init_from import PREDICTORS
from segjax.tasks.variants import as_variant
from segjax.weights.checkpoint import read_checkpoint, write_checkpoint
from segjax.weights.tree import CheckpointError, flatten

SOURCE = dict(keypoints=0)  # three classes


@pytest.fixture(scope="module")
def variables():
    return drawn_variables(build_model("maskrcnn_debug", **SOURCE), init_model)


@pytest.fixture(scope="module")
def files(tmp_path_factory, variables):
    folder = tmp_path_factory.mktemp("detectors")
    metadata = {"model": {"name": "maskrcnn_debug"} | SOURCE}
    write_checkpoint(folder / "ours.safetensors", variables, metadata=metadata)
    write_checkpoint(folder / "theirs.pth", variables, format="torchvision", metadata=metadata)
    return folder


def task_of(**model):
    config = as_variant(detection_config(), "debug")
    config.model.update(model)
    return make_task(config)


def expected(task):
    return variable_shapes(task.model)


@pytest.mark.parametrize("name", ["ours.safetensors", "theirs.pth"])
@pytest.mark.parametrize(
    "model", [dict(classes=1), dict(classes=1, mask_convs=0), dict(keypoints=4)]
)
def test_all_but_what_names_the_classes_is_taken(files, variables, name, model):
    task = task_of(**model)
    wanted = flatten(expected(task))
    found = flatten(task.load_pretrained("detector", str(files / name), expected(task)))
    have = flatten(variables)
    for path, array in found.items():
        assert array.shape == wanted[path].shape
        np.testing.assert_array_equal(array, have[path], err_msg=path)
    modules = {"/".join(path.split("/")[1:3]) for path in wanted.keys() - found.keys()}
    last = {
        each for each in PREDICTORS if any(path.startswith(f"params/{each}/") for path in wanted)
    }
    assert modules == last | ({"keypoint_head/conv_0"} if "keypoints" in model else set())
    assert "params/backbone/stem/kernel" in found and "constants/backbone/stem/norm/mean" in found


@pytest.mark.parametrize("name", ["ours.safetensors", "theirs.pth"])
def test_a_cascade_starts_from_what_is_there(files, variables, name):
    """Box heads are fresh in a detector without a cascade. A cascade loads its boxes too."""
    cascade = dict(box_stages=3, agnostic_boxes=True)
    task = task_of(**cascade)
    found = task.load_pretrained("detector", str(files / name), expected(task))
    assert (
        not any("box_head" in module for module in found["params"])
        and "mask_head" in found["params"]
    )
    own = drawn_variables(build_model("maskrcnn_debug", **SOURCE | cascade), init_model)
    write_checkpoint(files / "cascade.safetensors", own, metadata={})
    path = str(files / "cascade.safetensors")
    found = flatten(task.load_pretrained("detector", path, expected(task)))
    fresh = {
        "/".join(path.split("/")[1:3]) for path in flatten(expected(task)).keys() - found.keys()
    }
    assert fresh == {"mask_head/logits", *(f"box_head_{stage}/scores" for stage in range(3))}
    ordinary = task_of()
    found = ordinary.load_pretrained("detector", path, expected(ordinary))
    assert not any("box_head" in module for module in found["params"]) and "rpn" in found["params"]


def test_errors_say_how_to_ask_and_what_is_no_detector(files, tmp_path):
    one_class, wider = expected(task_of(classes=1)), task_of(features=32)
    shapes = expected(wider)
    for name in ("ours.safetensors", "theirs.pth"):
        with pytest.raises(
            CheckpointError, match=r"misshapen.*init_from='detector:PATH' loads all but"
        ):
            read_checkpoint(files / name).variables(one_class)
        with pytest.raises(CheckpointError, match="of another architecture"):
            wider.load_pretrained("detector", str(files / name), shapes)
    other = {"params": {"encoder": {"kernel": np.zeros((2, 2), np.float32)}}, "constants": {}}
    write_checkpoint(tmp_path / "other.safetensors", other, metadata={"model": {}})
    with pytest.raises(CheckpointError, match="holds no detector"):
        wider.load_pretrained("detector", str(tmp_path / "other.safetensors"), shapes)
    with pytest.raises(ValueError, match="from another detector's, 'detector:PATH'"):
        wider.load_pretrained("mae", "x", shapes)
