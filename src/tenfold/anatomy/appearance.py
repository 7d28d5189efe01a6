"""What images look like, beside what their anatomy is: image metrics, slices, and a map of features."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tenfold.anatomy.features import extract, open_extractor
from tenfold.anatomy.imagemetrics import ImageMetrics, compare_images, usable
from tenfold.anatomy.scatter import feature_scatter
from tenfold.anatomy.sets import ImageSet
from tenfold.anatomy.slices import Pictures, mid_slices
from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.core.reports import Plot, Table

__all__ = ["Appearance", "compare_appearance"]


@dataclass(frozen=True)
class Appearance:
    """What `Evaluation.write` takes besides the anatomy.

    Attributes:
        metrics: Of each generator, by name.
        drawings: Slices, and a map of the features of each extractor.
    """

    metrics: Mapping[str, ImageMetrics]
    drawings: Sequence[Plot]

    @property
    def tables(self) -> list[Table]:
        """The metrics, a table per generator."""
        return [one.table() for one in self.metrics.values()]


def compare_appearance(
    real: ImageSet,
    generated: Mapping[str, ImageSet],
    labels: Mapping[str, Mapping[str, Path]] | None = None,
    *,
    features: Sequence[str] = ("handcrafted", "random3d"),
    legacy: bool = False,
    draw: bool = True,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Appearance:
    """Image metrics of several generators, and drawings of their images beside real ones. Images are streamed.

    Args:
        real: Prepared images. Of each set those that are not `usable` are left out.
        generated: By name, in the same space.
        labels: Label files by the names of images, for the sets that have them ("real" for the real one); as
            `sets.find_labels` returns them. Slices are outlined with them.
        features: As for `compare_images`.
        legacy: As for `compare_images`.
        draw: Whether to make the drawings.
        seed: As for `compare_images`.
        progress: Told of the phases "check", "ms-ssim" and "features".

    Raises:
        InputError: As `compare_images` and `mid_slices`.
    """
    sets = {"real": real, **generated}
    if not generated or "real" in generated:
        raise InputError("images of generators: give one or more, and call none of them 'real'")
    known, drawings = labels or {}, list[Plot]()
    sets = {name: usable(one, progress) for name, one in sets.items()}
    if draw:
        drawings.append(mid_slices({name: Pictures(one, known.get(name, {})) for name, one in sets.items()}))
    with tempfile.TemporaryDirectory() as cache:  # so that a real image is embedded once
        metrics = {
            name: compare_images(
                sets["real"], sets[name], features=features, legacy=legacy, seed=seed, cache=cache, progress=progress
            )
            for name in generated
        }  # fmt: skip
        for extractor in map(open_extractor, features if draw else ()):
            vectors = {name: extract(one, extractor, cache) for name, one in sets.items()}
            drawings.append(feature_scatter(vectors, extractor.name))
    return Appearance(metrics, drawings)
