"""One of several processes, joined and guarded like `segjax train`; it only meets the others."""

import argparse
import logging
import pathlib
import sys

from processes import prepare_jax

from segjax.cli import guard, processes


def main() -> int:
    parser = argparse.ArgumentParser()
    processes.add_arguments(parser)
    parser.add_argument("--met", help="a file to make once all have met")
    parser.add_argument("--fails", action="store_true", help="with an error of its own, after that")
    args = parser.parse_args()
    assert processes.is_distributed(args)
    if guard.is_needed():
        timeouts = dict(heartbeat_timeout=args.heartbeat_timeout, join_timeout=args.join_timeout)
        return guard.guard([sys.executable, *sys.argv], coordinator=args.coordinator, **timeouts)
    guard.end_with_guard()

    import numpy as np
    from jax.experimental import multihost_utils

    prepare_jax(1)
    logging.basicConfig(level=logging.INFO)
    with processes.join(args):
        for meeting in range(10**6):
            multihost_utils.process_allgather(np.float32(meeting))
            if meeting == 3:
                pathlib.Path(args.met).touch()
            if meeting > 3 and args.fails:
                raise OSError("no space left on device")


sys.exit(main())
