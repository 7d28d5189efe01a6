"""The verbs of `tenfold anatomy`. Each imports what it needs: their help, and completion, do without it."""

import json as json_format
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tenfold.anatomy.making import COMMANDS as MAKING
from tenfold.anatomy.making import edge
from tenfold.core.errors import InputError
from tenfold.core.progress import progress_bar
from tenfold.core.reports import Plot, Table, need_reports

if TYPE_CHECKING:
    from tenfold.anatomy.bench import Bench

__all__ = ["COMMANDS"]

Named = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATH...")]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="REGION...")]


def evaluate(
    real: Path | None = None,
    generated: Named = (),
    training: Path | None = None,
    real_images: Path | None = None,
    images: Named = (),
    out: Path | None = None,
    adjust: Literal["real", "pooled", "none"] = "real",
    legacy: bool = False,
    without: Names = (),
    voxel_mm: float = 0.0,
    replicates: int = 1000,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Say whether generated brains have a plausible anatomy, region by region.

    A PATH is a table of volumes (SynthSeg's volumes.csv with qc.csv beside it, asegstats2table's, a MUSE table, ours),
    a folder of FreeSurfer's or FastSurfer's subjects, a folder that segment has filled, or one of label files. Label
    files that lie there and are named as the images of --images are (NAME_dseg.nii.gz) are drawn onto them.

    Example: tenfold anatomy evaluate --real real/volumes.csv --generated HA-GAN=hagan/volumes.csv --out report

    Args:
        real: Volumes of real people whom the generators have not seen.
        generated: Volumes of each generator's images.
        training: Volumes of the training images, to look for copies of them.
        real_images: Folder of prepared real images, to show slices and the usual image metrics beside the anatomy.
        images: Folders of each generator's images, prepared alike.
        out: Folder for anatomy.html, .md, .json, drawings, and regions.tsv with every number.
        adjust: Whom volumes are regressed on head size with: real people, all of them pooled as in the paper, or none.
        legacy: As the paper's code: pooled, and Student's t-test.
        without: Regions to leave out, such as csf.
        voxel_mm: Edge of a voxel of generated files without an affine, labels and images.
        replicates: Resamples of the people, for intervals and ranks.
        seed: Of the resamples.
        json: Print one JSON object instead of tables.
    """
    from tenfold.anatomy.bench import Bench
    from tenfold.anatomy.report import for_terminal

    if real is None or not generated:
        raise InputError("evaluate needs --real PATH and --generated NAME=PATH, one or more")
    if out is not None:
        need_reports()
    if replicates < 2:
        raise InputError(f"--replicates {replicates}: give 2 or more; 1000 are usual")
    if bool(images) != (real_images is not None):
        raise InputError("image metrics need both: --real-images FOLDER and --images NAME=FOLDER, one or more")
    sources, folders = _named(generated, "--generated"), _named(images, "--images")
    if unknown := [name for name in folders if name not in sources]:
        raise InputError(f"--images: '{unknown[0]}' is none of --generated, {', '.join(sources)}; give the same names")
    with progress_bar() as progress:
        bench = Bench(real, training, adjust, legacy, without, edge(voxel_mm), replicates, seed, progress=progress)
        evaluation = bench.evaluate(sources)
        tables, drawings = _appearance(real_images, folders, {**sources, "real": real}, bench, draw=out is not None)
    written = evaluation.write(out, tables, drawings) if out is not None else []
    report = evaluation.report(tables)
    if json:
        print(report.to_json())
        return
    for_terminal(report).print()
    for path in written[:1]:
        print(f"Written: {path}")


def qc(
    sets: Named,
    threshold: float = 0.65,
    required: float = 0.95,
    json: bool = False,
) -> None:
    """Put segmentations through the gate: which share is reliable in each group of structures.

    Example: tenfold anatomy qc real=real/volumes.csv HA-GAN=hagan/volumes.csv

    Args:
        sets: Volumes of each set, with QC scores: SynthSeg's volumes.csv with qc.csv beside it, or our table.
        threshold: Scores above it are reliable.
        required: The share of images a set needs in every group.
        json: Print one JSON object instead of a table.
    """
    from tenfold.anatomy.gate import gate, gate_table
    from tenfold.anatomy.report import turn
    from tenfold.anatomy.tables import read_measured

    if not sets:
        raise InputError("qc needs NAME=PATH, one or more")
    read = {name: read_measured(path) for name, path in _named(sets, "SETS").items()}
    table = gate_table({name: gate(one, threshold, required) for name, one in read.items()})
    if json:
        print(table.to_json())
        return
    turn(table).print()


def report(folder: Path, json: bool = False) -> None:
    """Show again what evaluate has written into a folder.

    Example: tenfold anatomy report report

    Args:
        folder: The OUT of evaluate.
        json: Print its JSON object instead of tables.
    """
    from tenfold.anatomy.report import for_terminal, read_report

    found = read_report(folder)
    if json:
        print(found.to_json())
        return
    for_terminal(found).print()
    print(f"Page: {folder / 'anatomy.html'}")


def measure(
    source: Path,
    out: Path,
    qc: Path | None = None,
    voxel_mm: float = 0.0,
    json: bool = False,
) -> None:
    """Write the volumes of label files, of stats files, or of a segmenter's table as a table of ours.

    Example: tenfold anatomy measure segmentations volumes.tsv

    Args:
        source: As PATH of evaluate.
        out: Table to write, .tsv; a .json beside it names unit, segmenter and regions.
        qc: SynthSeg's QC table, if it is not beside SOURCE.
        voxel_mm: Edge of a voxel of label files without an affine.
        json: Print one JSON object instead of a line.
    """
    from tenfold.anatomy.tables import read_measured, write_measured

    if out.suffix != ".tsv":
        raise InputError(f"{out}: a table of ours ends in .tsv")
    measured = read_measured(source, qc=qc, voxel_mm=edge(voxel_mm))
    write_measured(measured, out)
    facts = {"images": len(measured), "regions": len(measured.regions), "missing": measured.missing, "table": str(out)}
    if json:
        print(json_format.dumps(facts))
        return
    cortical = sum(name.startswith("ctx-") for name in measured.missing)
    lacking = [name for name in measured.missing if not name.startswith("ctx-")]
    lacking += [f"{cortical} cortical regions"] if cortical else []
    without = f"; without {', '.join(lacking)}" if lacking else ""
    print(f"Written: {out}: {len(measured):,} images, {len(measured.regions)} regions{without}")


def prepare(
    images: Path,
    template: Path,
    out: Path,
    mm: float = 1.0,
    mask: Literal["stripped", "given", "template", "otsu"] = "template",
    masks: Path | None = None,
    bias: Literal["n4", "none"] = "n4",
    align: Literal["affine", "rigid", "none"] = "affine",
    voxel_mm: float = 0.0,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Process images alike: bias field, brain mask, alignment to a template, grid, intensities in [-1, 1].

    Real and generated images are prepared by the same call but for the folders. An interrupted one goes on.

    Example: tenfold anatomy prepare real_t1 MNI152_brain.nii.gz real_prepared --mm 2

    Args:
        images: Folder of T1-weighted images: BIDS, or .nii.gz files.
        template: A T1-weighted brain without skull, such as MNI152.
        out: Folder to fill: images, and a sidecar with every parameter.
        mm: Edge of the voxels of the result, 0.5 to 8.
        mask: Of the brain: found with the template, what is not background in stripped images, by Otsu's threshold, or
            given as files.
        masks: Folder of mask or label files, for --mask given.
        bias: Whether the bias field is corrected.
        align: With 12 parameters, with 6, or not at all.
        voxel_mm: Edge of a voxel of images without an affine.
        seed: Of the sampling in the alignment.
        json: Print one JSON object instead of a line.
    """
    from tenfold.anatomy.processing import prepare as prepare_images
    from tenfold.anatomy.sets import open_images

    with progress_bar() as progress:
        found = prepare_images(
            open_images(images, voxel_mm=edge(voxel_mm)), template, out, mm=mm, mask=mask, masks=masks, bias=bias,
            align=align, seed=seed, progress=progress,
        )  # fmt: skip
    for message in found.refused.values():
        print(f"left out: {message}", file=sys.stderr)
    if json:
        facts = {"images": len(found.images), "left_out": dict(found.refused), "folder": str(out)}
        print(json_format.dumps(facts))
        return
    lacking = f"; {len(found.refused)} left out, see refused.tsv" if found.refused else ""
    print(f"Written: {out}: {len(found.images):,} images of {mm:g} mm{lacking}")


def images(
    real: Path,
    generated: Named,
    features: Annotated[tuple[str, ...], tyro.conf.arg(metavar="EXTRACTOR...")] = ("handcrafted", "random3d"),
    window: int = 11,
    rounds: int = 10,
    pairs: int = 1000,
    permutations: int = 1000,
    legacy: bool = False,
    voxel_mm: float = 0.0,
    cache: Path | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """The usual image metrics of prepared images: MS-SSIM, FID, KID, MMD, each with what it depends on.

    Example: tenfold anatomy images real_prepared HA-GAN=hagan_prepared

    Args:
        real: Folder of prepared real images.
        generated: Folders of each generator's images, prepared alike.
        features: What distances are taken between: handcrafted, random3d (random3d:7 for another seed), voxels, or
            MedicalNet's resnet_50.pth.
        window: Of MS-SSIM, in voxels.
        rounds: Random real images that each generated one is compared with.
        pairs: Most pairs within a set.
        permutations: Of the test of MMD.
        legacy: Show besides what the paper's code computes.
        voxel_mm: Edge of a voxel of generated images without an affine.
        cache: Folder to keep features and similarities in; an interrupted run goes on there.
        seed: Of pairs, subsets and permutations.
        json: Print a JSON object per generator instead of tables.
    """
    from tenfold.anatomy.imagemetrics import compare_images
    from tenfold.anatomy.sets import open_images

    if not generated:
        raise InputError("images needs REAL and then NAME=FOLDER, one or more")
    folders = _named(generated, "GENERATED")
    with progress_bar() as progress, tempfile.TemporaryDirectory() as kept:  # real images are looked at once
        tables = [
            compare_images(
                open_images(real, "real"), open_images(folder, name, edge(voxel_mm)), features=features,
                window=window, rounds=rounds, pairs=pairs, permutations=permutations, legacy=legacy, seed=seed,
                cache=cache or kept, progress=progress,
            ).table()
            for name, folder in folders.items()
        ]  # fmt: skip
    for table in tables:
        if json:
            print(table.to_json())
        else:
            table.print()


COMMANDS: dict[str, Callable[..., None]] = {
    "prepare": prepare,
    "measure": measure,
    "qc": qc,
    "evaluate": evaluate,
    "report": report,
    "images": images,
    **MAKING,
}


# --- what the verbs share ---------------------------------------------------------------------------------------------


def _named(texts: Sequence[str], option: str) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for text in texts:
        name, sign, path = text.partition("=")
        if not (name and sign and path):
            raise InputError(f"'{text}': give a name and a path, such as HA-GAN=hagan/volumes.csv")
        if name in named:
            raise InputError(f"{option}: {' '.join(texts)} names '{name}' twice")
        named[name] = Path(path)
    return named


def _appearance(
    real: Path | None, generated: Mapping[str, Path], volumes: Mapping[str, Path], bench: "Bench", draw: bool
) -> tuple[Sequence[Table], Sequence[Plot]]:
    """Image metrics and drawings; labels are looked for where the volumes are."""
    if real is None:
        return (), ()
    from tenfold.anatomy.appearance import compare_appearance
    from tenfold.anatomy.sets import find_labels, open_images

    of_real = open_images(real, "real")
    sets = {name: open_images(folder, name, bench.voxel_mm) for name, folder in generated.items()}
    labels = {
        name: find_labels(volumes[name], one) for name, one in {**sets, "real": of_real}.items() if name in volumes
    }
    found = compare_appearance(
        of_real, sets, labels, legacy=bench.legacy, draw=draw, seed=bench.seed, progress=bench.progress
    )
    return found.tables, found.drawings
