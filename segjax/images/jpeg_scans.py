"""Scans of progressive JPEG files, each of which goes over the whole image once more.

Encoders write about ten scans. A file made to harm repeats one of 30 bytes thousands of times, so
that a few kilobytes keep a decoder busy for minutes.
"""

import re

MOST_SCANS = 100
# Pixels times scans: about 10 s of decoding. The largest images may still have 16 scans.
MOST_WORK = 2**32
# A marker: 0xFF is followed by neither a stuffed zero nor the number of a restart interval.
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
_ALONE, _START_OF_IMAGE, _END_OF_IMAGE, _SCAN = 0x01, 0xD8, 0xD9, 0xDA


def has_too_many_scans(data: bytes, pixels: int) -> bool:
    """Tests if the first image of a JPEG file has more scans than encoders write.

    Args:
      data: bytes of the file.
      pixels: height times width of the image.
    """
    most = min(MOST_SCANS, max(MOST_WORK // max(pixels, 1), 1))
    at = scans = 0
    while scans <= most and (marker := _MARKER.search(data, at)):
        kind, at = marker[1][0], marker.end()
        if kind == _END_OF_IMAGE:
            return False
        scans += kind == _SCAN
        # Other markers begin a segment with a length, whose content is skipped.
        if kind not in (_ALONE, _START_OF_IMAGE):
            at += int.from_bytes(data[at : at + 2])
    return scans > most
