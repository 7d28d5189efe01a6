"""The bench: real people on one side, any number of generators on the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tenfold.anatomy.gate import gate
from tenfold.anatomy.generators.interface import Generator
from tenfold.anatomy.headsize import Adjust
from tenfold.anatomy.images import write_image
from tenfold.anatomy.labels import STRUCTURES
from tenfold.anatomy.people import people_tables
from tenfold.anatomy.plausibility import Plausibility, compare
from tenfold.anatomy.ranking import Rank, rank
from tenfold.anatomy.report import make_report, write_report
from tenfold.anatomy.segmenters import Segmenter, none_reliable, segment
from tenfold.anatomy.sets import ImageSet, open_images
from tenfold.anatomy.sidecars import write_sidecar
from tenfold.anatomy.tables import read_measured
from tenfold.anatomy.volumes import Measured
from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.core.reports import Plot, Report, Table

__all__ = ["Bench", "Evaluation"]

Volumes = Measured | ImageSet | Generator | Path | str
"""Volumes that were read; where they are, what `read_measured` takes; or what a bench with a segmenter segments:
images, the folder they are in, or a generator that has learned."""

_TABLE = "volumes.tsv"


@dataclass(frozen=True)
class Evaluation:
    """What the bench found.

    Attributes:
        found: By generator.
        ranks: The best first; empty for fewer than two generators with reliable images.
        people: What age, sex and the like do to volumes, a table per generator and column that it has.
        notes: The sources and settings.
    """

    found: Mapping[str, Plausibility]
    ranks: Sequence[Rank] = ()
    people: Sequence[Table] = ()
    notes: Sequence[str] = ()

    def report(self, tables: Sequence[Table] = (), drawings: Sequence[Plot] = ()) -> Report:
        """The whole report; `tables` are shown behind the verdicts, `drawings` behind those of the regions."""
        report = make_report(self.found, self.ranks, tables, self.notes, drawings)
        return replace(report, details=[*report.details, *self.people])

    def table(self) -> Table:
        """The verdicts, a row per generator."""
        return self.report().tables[0]

    def regions(self, name: str) -> Table:
        """The regions of one generator.

        Raises:
            InputError: There is no such generator.
        """
        if name not in self.found:
            raise InputError(f"there is no generator '{name}'; there are {', '.join(self.found)}")
        return next(iter(make_report({name: self.found[name]}).details), Table(f"Regions of {name}", ["region"], []))

    def write(self, folder: Path | str, tables: Sequence[Table] = (), drawings: Sequence[Plot] = ()) -> list[Path]:
        """Write the page, its drawings, Markdown, JSON and regions.tsv; the page's path comes first."""
        return write_report(self.report(tables, drawings), self.found, Path(folder))


@dataclass(frozen=True)
class Bench:
    """Real people, and how generators are held against them.

    Attributes:
        real: Volumes of real people whom no generator has seen, or where they are.
        training: Volumes of the training images; without them nothing is said about memorisation.
        adjust: As for `compare`.
        legacy: As for `compare`.
        without: Regions to leave out.
        voxel_mm: The edge of a voxel of generated label files without an affine.
        replicates: Resamples for intervals and ranks.
        seed: Of the resamples.
        segmenter: For sets that are images; without one all sets are volumes.
        work: Folder for segmentations and samples, `NAME_segmented` and `NAME_samples`; what a killed call had
            segmented is kept. Needed with a segmenter.
        samples: Images that a generator makes; their affine and processing are the real images'.
        progress: Told of the phases "comparing", "segmenting" and "sampling".
    """

    real: Volumes
    training: Volumes | None = None
    adjust: Adjust = "real"
    legacy: bool = False
    without: tuple[str, ...] = ()
    voxel_mm: float | None = None
    replicates: int = 1000
    seed: int = 0
    segmenter: Segmenter | None = None
    work: Path | str | None = None
    samples: int = 100
    progress: Progress = field(default=no_progress, repr=False)

    def evaluate(self, generated: Mapping[str, Volumes]) -> Evaluation:
        """Compare each generator with the real people, and rank those that have reliable images.

        Raises:
            InputError: As `compare`, `read_measured` and `segment`; no generator was given; or a set needs a segmenter
                and there is none.
        """
        if not generated:
            raise InputError("no generator was given; give at least one, by name")
        if taken := [name for name in ("real", "training") if name in generated]:
            raise InputError(f"a generator is called '{taken[0]}', as a set of the bench is; give it another name")
        real = self._read("real", self.real, None)
        training = None if self.training is None else self._read("training", self.training, None)
        sets, found = {}, {}
        for number, (name, volumes) in enumerate(generated.items()):
            self.progress("comparing", number, len(generated))
            sets[name] = self._read(name, volumes, self.voxel_mm, real)
            found[name] = compare(
                real, sets[name], self.adjust, training=training, legacy=self.legacy, replicates=self.replicates,
                seed=self.seed,
            )  # fmt: skip
        self.progress("comparing", len(generated), len(generated))
        reliable = {name: _reliable(one) for name, one in sets.items() if found[name].regions}
        adjust: Adjust = "pooled" if self.legacy else self.adjust
        ranks = rank(_reliable(real), reliable, adjust, self.replicates, self.seed) if len(reliable) > 1 else []
        notes = [
            f"real: {len(real)} images of {'/'.join(Path(real.source).parts[-2:])}",
            f"seed {self.seed}, {self.replicates} resamples",
        ]
        people = [
            table for name, one in reliable.items() for table in people_tables(name, _reliable(real), one, adjust)
        ]
        return Evaluation(found, ranks, people, notes)

    def _read(self, name: str, volumes: Volumes, voxel_mm: float | None, real: Measured | None = None) -> Measured:
        measured = volumes if isinstance(volumes, Measured) else self._measure(name, volumes, voxel_mm, real)
        known = {*measured.regions, *(one.name for one in STRUCTURES)}
        if real is None and (unknown := [one for one in self.without if one not in known]):
            raise InputError(f"{measured.source}: has no region '{unknown[0]}'; it has {', '.join(measured.regions)}")
        kept = [name for name in measured.regions if name not in self.without]
        if not kept:
            raise InputError(f"{measured.source}: without {', '.join(self.without)} no region is left")
        left = measured if len(kept) == len(measured.regions) else measured.only(kept)
        return replace(left, missing=tuple(name for name in left.missing if name not in self.without))

    def _measure(
        self, name: str, source: ImageSet | Generator | Path | str, voxel_mm: float | None, real: Measured | None
    ) -> Measured:
        """Volumes of a set that is not measured yet, or that lies in a file."""
        images = self._images(name, source, voxel_mm)
        if images is None:
            assert isinstance(source, Path | str)
            return read_measured(source, voxel_mm=voxel_mm)
        if self.segmenter is None or self.work is None:
            raise InputError(f"{name}: is a set of images; give the bench a segmenter, and a folder to work in")
        failed = isinstance(source, Generator) and not len(images.readable())
        if failed and real is not None and real.qc_SG is not None:
            return none_reliable(images, real)
        return segment(images, self.segmenter, Path(self.work) / f"{name}_segmented", self.progress)

    def _images(self, name: str, source: ImageSet | Generator | Path | str, voxel_mm: float | None) -> ImageSet | None:
        if isinstance(source, ImageSet):
            return source
        if isinstance(source, Generator):
            return self._sample(name, source)
        folder = Path(source)
        is_images = self.segmenter is not None and folder.is_dir() and not (folder / _TABLE).exists()
        return open_images(folder, name, voxel_mm) if is_images else None

    def _sample(self, name: str, generator: Generator) -> ImageSet:
        like = None if isinstance(self.real, Measured | Generator) else self._images("real", self.real, None)
        if like is None or self.work is None:
            raise InputError(
                f"{name}: is a generator; give the bench real images, a segmenter, and a folder to work in"
            )
        folder, affine = Path(self.work) / f"{name}_samples", like[0].affine
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(self.samples):  # always anew: the generator may have learned since
                target = folder / f"generated_sample_{number}.nii.gz"
                write_image(target, generator.sample(1, self.seed, first=number)[0], affine)
                self.progress("sampling", number + 1, self.samples)
            if like.processing is not None:
                write_sidecar(folder, like.processing)
        except OSError as error:
            raise InputError(f"{folder}: cannot hold samples ({error.strerror}); choose another place") from None
        return open_images(folder, name).take(range(self.samples))


def _reliable(measured: Measured) -> Measured:
    return measured if measured.qc_SG is None else measured.take(gate(measured).reliable_S)
