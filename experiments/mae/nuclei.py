"""This is quickstart.py, but on the images of experiments/sam/nuclei.py, without their labels.

    segjax prepare nuclei path/to/dsb2018_nuclei --out data/nuclei
    segjax train --config=experiments/sam/nuclei.py --workdir=runs/scratch --config.total_steps=640
    segjax train --config=experiments/mae/nuclei.py --workdir=runs/mae
    segjax train --config=experiments/sam/nuclei.py --workdir=runs/after --config.total_steps=340 \\
      --config.init_from=mae:runs/mae

Expected on stage1_test, after the same seven minutes of one CPU core, over three seeds: iou@1 0.52
from scratch and 0.47 after the MAE, iou@5 0.61 and 0.54. Pretraining does not pay at this scale;
docs/results has the measurement.
"""

import ml_collections

from segjax.tasks.variants import as_variant

from . import quickstart


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment."""
    config = quickstart.get_config()
    config.update(total_steps=480, batch_size=16, log_every=20)
    config.model = dict(name="mae_tiny", canvas=128, patch=8, decoder_depth=1)
    # The normalized target of a flat gray patch is the difference of its channels' means, from
    # which nothing can be learned.
    config.model.norm_pix = False
    config.optimizer.peak_lr = 1.2e-2
    config.data.update(source="data/nuclei", train_split="stage1_train", eval_split="stage1_test")
    config.data.percentiles = (1.0, 99.0)
    # The SAM sees 128 pixels of a longest side of 205 to 320: this share of a square image,
    # without stretching.
    config.data.crop.update(scale=(0.16, 0.4), ratio=(1.0, 1.0))
    return as_variant(config, variant)
