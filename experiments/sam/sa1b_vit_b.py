"""This is sa1b_vit_h.py, but ViT-B: twice the steps on half the images.

    segjax prepare sa1b path/to/sa1b --out data/sa1b  # tars as released, or unpacked
    segjax train --config=experiments/sam/sa1b_vit_b.py --workdir=runs/sam-b \\
      --config.init_from=mae:runs/mae-b
    # does it fit?
    python tools/compile_for.py --config=experiments/sam/sa1b_vit_b.py --topology=v5e-128

The rate falls at the same shares of the run as for ViT-H: the paper names the steps for H only.
Every device holds all parameters. This recipe has not been run, so no result is claimed.
"""

import ml_collections

from segjax.tasks.variants import as_variant

from . import sa1b_vit_h


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment."""
    config = sa1b_vit_h.get_config()
    config.update(total_steps=180_000, batch_size=128)
    config.model.update(name="sam_vit_b", drop_path=0.6)
    # 2/3 and 0.963 of the run, as for ViT-H
    config.optimizer.update(peak_lr=8e-4, layer_decay=0.6, boundaries=(120_000, 173_332))
    config.eval.batch_size = 128
    config.mesh.fsdp = 1
    return as_variant(config, variant)
