"""`segjax train --plan`: the numbers of a step, without data and without training."""

import pytest

from segjax.cli.plan import describe_plan
from segjax.tasks import make_task
from segjax.tasks.promptable.config import miniature, promptable_config


def plan(device="here", **changes):
    config = miniature(promptable_config())
    config.update(trainable="lora", batch_size=8)
    config.rounds.update(count=1, empty_random=False, empty_last=False)
    config.data.source = "data/that/is/not/there"
    task = make_task(config := make_task(config).complete_config(config))
    return describe_plan(task, config, device)


@pytest.mark.slow
def test_the_plan_counts_parameters_bytes_and_operations():
    text = plan("rtx3080")
    # 2 blocks, q and v: 2 x 2 x (32 x 4 + 4 x 32)
    assert "adapters                 1,024 parameters,         1,024 trained" in text
    assert "trains 29,772 of 91,052 parameters (lora)" in text
    assert "image_encoder           61,280 parameters,             0 trained" in text
    assert "optimizer 0." in text and "peak memory" in text
    assert "10 GiB: the step fits" in text and "TFLOP a step" in text


def test_an_unknown_device_is_named_with_those_that_are_known():
    with pytest.raises(ValueError, match="'rtx9090' is unknown; expected one of t4, rtx3060"):
        plan("rtx9090")
