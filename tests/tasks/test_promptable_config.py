"""Settings of the promptable task: defaults, completion, and errors."""

import dataclasses

import pytest

from segjax.data.examples.augmentation import Augmentation
from segjax.models.sam.build import build_sam
from segjax.tasks import complete_config, make_task
from segjax.tasks.promptable.config import promptable_config


def small_config():
    config = promptable_config()
    config.model = {"name": "sam_debug", "drop_path": 0.5}
    config.data.scenes.update(train_count=2, size=64)
    return config


def test_every_augmentation_can_be_set_and_is_off_by_default():
    augment = promptable_config().data.augment
    assert set(augment) == {field.name for field in dataclasses.fields(Augmentation)}
    config = small_config()
    first = lambda: next(make_task(config).batches("train", batch_size=1))["size"].tolist()
    assert first() == [[64, 64]]
    config.data.augment.scale = (0.25, 0.25)
    assert first() == [[16, 16]]
    config.data.augment = {"flip": True}
    assert first() == [[64, 64]]


def test_a_completed_config_states_the_whole_model():
    full = complete_config(small_config())
    assert full.model.to_dict() | {"name": "sam_debug"} == full.model.to_dict()
    assert (full.model.drop_path, full.model.width, full.model.dtype) == (0.5, 32, "float32")
    assert not {"parent", "trunk"} & set(full.model)
    assert make_task(full).model == build_sam("sam_debug", drop_path=0.5)
    assert complete_config(full).to_dict() == full.to_dict()


def test_settings_of_an_older_version_are_completed_with_defaults():
    full = complete_config(
        {"task": "promptable", "model": {"name": "sam_tiny"}, "data": {"percentiles": [1.0, 99.0]}}
    )
    assert full.data.percentiles == (1.0, 99.0) and full.model.canvas == 128
    assert full.data.augment == promptable_config().data.augment
    assert complete_config({"task": "promptable"}).model.name == promptable_config().model.name


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"task": "promptble"}, "unknown task 'promptble'; nearest: promptable"),
        ({}, "unknown task ''; nearest: "),
        (
            {"task": "promptable", "model": {"name": "sam_tinny"}},
            "unknown model 'sam_tinny'; nearest: sam_tiny",
        ),
        (
            {"task": "promptable", "total_steps": "many"},
            "another type than its default.*'total_steps'",
        ),
    ],
)
def test_invalid_settings_are_reported(settings, message):
    with pytest.raises(ValueError, match=message):
        complete_config(settings)
