"""Leases of images, so that two people do not work on one image at the same time."""

import time
from collections.abc import Callable

LIFETIME = 60.0  # seconds after the last sign of life


class Leases:
    """Who works on which image.

    Args:
      clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, str, float]] = {}

    def take(self, image: str, session: str, annotator: str) -> str | None:
        """Takes or renews a lease, and gives up the session's others.

        Args:
          image: id of the image.
          session: of the page.
          annotator: name of the person.

        Returns:
          None, or the name of the person who has the image.
        """
        holder = self.find_holder(image, session)
        if holder is not None:
            return holder
        self._held = {key: value for key, value in self._held.items() if value[0] != session}
        self._held[image] = (session, annotator, self._clock() + LIFETIME)
        return None

    def find_holder(self, image: str, session: str) -> str | None:
        """Returns the name of another person who has the image, or None."""
        owner, annotator, until = self._held.get(image, ("", "", 0.0))
        if owner in ("", session) or until < self._clock():
            return None
        return annotator or "another person"
