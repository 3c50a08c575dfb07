"""This is sa1b_vit_h.py, but ViT-L: twice the steps on half the images.

    segjax prepare sa1b path/to/sa1b --out data/sa1b  # tars as released, or unpacked
    segjax train --config=experiments/sam/sa1b_vit_l.py --workdir=runs/sam-l \\
      --config.init_from=mae:runs/mae-l
    # does it fit?
    python tools/compile_for.py --config=experiments/sam/sa1b_vit_l.py --topology=v5e-128

The rate falls at the same shares of the run as for ViT-H: the paper names the steps for H only.
Parameters and optimizer state are split over groups of 8 devices. This recipe has not been run, so
no result is claimed.
"""

import ml_collections

from segjax.tasks.variants import as_variant

from . import sa1b_vit_h


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment."""
    config = sa1b_vit_h.get_config()
    config.update(total_steps=180_000, batch_size=128)
    config.model.update(name="sam_vit_l", drop_path=0.4)
    # 2/3 and 0.963 of the run, as for ViT-H
    config.optimizer.update(peak_lr=4e-4, layer_decay=0.8, boundaries=(120_000, 173_332))
    config.eval.batch_size = 128
    config.mesh.fsdp = 8
    return as_variant(config, variant)
