"""Trains SAM ViT-H on SA-1B by the paper's recipe (appendix A), from a MAE-pretrained ViT.

Needs a pod.

    segjax prepare sa1b path/to/sa1b --out data/sa1b  # tars as released, or unpacked
    segjax train --config=experiments/sam/sa1b_vit_h.py --workdir=runs/sam-h \\
      --config.init_from=mae:runs/mae-h
    # does it fit?
    python tools/compile_for.py --config=experiments/sam/sa1b_vit_h.py --topology=v5e-256

90,000 steps of 256 images with up to 64 masks each, 11 rounds of prompts, no augmentation. The rate
falls to a tenth after 60,000 and after 86,666 steps. Parameters and optimizer state are split over
groups of 16 devices. docs/guides/scaling.md lists the slices that the step has been compiled for.
On TPUs try --config.model.attention=pallas. This recipe has not been run, so no result is claimed.
"""

import ml_collections

from segjax.tasks.promptable.config import promptable_config
from segjax.tasks.variants import as_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment."""
    config = promptable_config()
    config.update(total_steps=90_000, batch_size=256, eval_every=5000)
    config.model = dict(
        name="sam_vit_h",
        drop_path=0.4,
        # Rematerialization of blocks, and of groups of 16 prompts in the decoder: a chip of 16 GiB
        # holds an image with all of its masks. To recompute whole rounds (`rounds.remat`) on top
        # takes longer and, compiled for v5e-256, saves nothing.
        remat="full",
        scan=True,
        dtype="bfloat16",
        prompts_at_once=16,
    )
    # The rate drops at the steps that the paper names.
    config.optimizer.update(peak_lr=8e-4, warmup_steps=250, layer_decay=0.8)
    config.optimizer.update(schedule="step", boundaries=(60_000, 86_666))
    config.data.update(source="data/sa1b", train_split="train", eval_split="val")
    config.data.update(workers=16, threads=2)
    config.eval.update(batch_size=256, max_prompts=16, limit=2000)
    # The decoder's matrices are small and used in every round: they are replicated.
    config.mesh.update(fsdp=16, floor=2**20)
    config.checkpoint.every = 1000
    return as_variant(config, variant)
