"""Report of a preparation: images and objects written, and those skipped with the reason."""

import dataclasses

from segjax.data.sources.raw import SkipCounts

REPORT_FILE = "report.json"


@dataclasses.dataclass
class SplitReport:
    """Counts of one prepared split.

    Attributes:
      images: number of images written.
      objects: number of objects written.
      seconds: time it took.
      skipped: images and objects that were skipped, by reason.
    """

    images: int = 0
    objects: int = 0
    seconds: float = 0.0
    skipped: SkipCounts = dataclasses.field(default_factory=SkipCounts)


@dataclasses.dataclass
class Report:
    """Report of `prepare`. `str(report)` is for people, and report.json holds the same facts.

    Attributes:
      source: name of the data source.
      out: prepared folder.
      splits: report of each split.
    """

    source: str
    out: str
    splits: dict[str, SplitReport] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.source} -> {self.out}"]
        for name, split in self.splits.items():
            objects = f", {split.objects} objects" if split.objects else ""
            lines.append(f"  {name}: {split.images} images{objects}, {split.seconds:.1f} s")
            for kind in ("images", "objects"):
                # Most frequent reasons first
                counts = getattr(split.skipped, kind).items()
                for reason, count in sorted(counts, key=lambda item: -item[1]):
                    example = split.skipped.examples[reason][0]
                    lines.append(f"    skipped {count} {kind}: {reason}, such as {example}")
        return "\n".join(lines)
