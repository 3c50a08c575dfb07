"""Parts of a checkpoint, the hooks that orbax calls while it saves them, and its messages."""

import contextlib
import dataclasses
import inspect
import logging
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from segjax.weights.checksums import write_checksums
from segjax.weights.run_folder import OPTIMIZER
from segjax.weights.run_meta import find_best_step

logger = logging.getLogger(__name__)

SAVED = ("step", "params", "constants", "opt_state", "key", "ema")
# Saved apart, so that whoever loads the weights need not verify twice as many bytes. "step" is
# there because orbax saves no item without arrays, and some optimizers have none.
_OF_OPTIMIZER = ("opt_state", "step")


def divide_state(*, apart: bool) -> dict[str, tuple[str, ...]]:
    """Returns the fields of the state in each item of a checkpoint.

    Args:
      apart: Whether the optimizer state has an item of its own.
    """
    if not apart:
        return {"state": SAVED}
    return {
        "state": tuple(name for name in SAVED if name != "opt_state"),
        OPTIMIZER: _OF_OPTIMIZER,
    }


class SealedFolder(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """Folder of a step that gets its checksums before it gets its name.

    Orbax writes it under one temporary name and renames it to another. The checksums are written
    there, in the background as everything else, by process 0 after all have finished. Then the
    folder is renamed to its step. A checkpoint without checksums can therefore not be left behind
    by a kill.
    """

    @classmethod
    def from_final(cls, final_path: Any, **options: Any) -> Any:
        """Returns the temporary path of a folder, a plain one for the folders inside a step."""
        if not final_path.name.isdigit():
            return ocp.path.atomicity.AtomicRenameTemporaryPath.from_final(final_path, **options)
        # With the suffix, `delete_unfinished` finds what a killed run leaves
        unsealed = f"{final_path.name}.unsealed{ocp.path.atomicity.TMP_DIR_SUFFIX}"
        path = super().from_final(final_path.with_name(unsealed), **options)
        path.sealed = final_path
        return path

    def get_final(self) -> Any:
        """Returns the path of the finished folder."""
        return getattr(self, "sealed", None) or super().get_final()

    def finalize(self) -> Any:
        """Renames the folder, writes its checksums and renames it to its step."""
        unsealed = super().get_final()
        shutil.rmtree(unsealed, ignore_errors=True)  # of a save of this step that failed
        renamed = super().finalize()

        def seal() -> None:
            write_checksums(unsealed)
            unsealed.rename(self.sealed)

        async def wait_and_seal() -> None:
            await renamed
            seal()

        # Versions of orbax below 0.12 rename at once
        return wait_and_seal() if inspect.isawaitable(renamed) else seal()


def delete_unfinished(directory: pathlib.Path) -> None:
    """Deletes the saves that a killed run has left unfinished. One process calls it."""
    for path in directory.glob(f"*{ocp.path.atomicity.TMP_DIR_SUFFIX}"):
        logger.info("deleting %s: a save that did not finish", path)
        shutil.rmtree(path, ignore_errors=True)


@dataclasses.dataclass
class KeepBest(preservation_policy.PreservationPolicy):
    """Policy that preserves the best checkpoint by one metric.

    Orbax's own policy forgets the metrics when the run is resumed.
    """

    metrics: Mapping[int, Mapping[str, float]]  # by step, grows with every save
    name: str
    mode: str

    def should_preserve(
        self,
        checkpoints: Sequence[preservation_policy.PolicyCheckpointInfo],
        *,
        context: preservation_policy.PreservationContext,
    ) -> Sequence[bool]:
        existing = {
            checkpoint.step: self.metrics.get(checkpoint.step, {}) for checkpoint in checkpoints
        }
        best = find_best_step(existing, self.name, self.mode)
        return [checkpoint.step == best for checkpoint in checkpoints]


def drop_traceback(record: logging.LogRecord) -> bool:
    """Shortens orbax's message about a save that failed. The error itself is raised later."""
    record.exc_info = None
    return True


@contextlib.contextmanager
def silence_orbax() -> Iterator[None]:
    """Silences orbax's page of messages about a checkpoint that cannot be read."""
    log = logging.getLogger("absl")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
