"""The verbs of `tenfold anatomy` that make something: segmentations, people, generators and their samples."""

import inspect
import json as json_format
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tenfold.core.errors import InputError
from tenfold.core.progress import progress_bar

if TYPE_CHECKING:
    from tenfold.anatomy.segmenters import Segmenter
    from tenfold.anatomy.volumes import Measured

__all__ = ["COMMANDS", "edge"]

BackEnd = Literal["lite", "atlas", "tissue", "synthseg"]
Kind = Literal["lite", "vae-gan", "alpha-wgan", "ha-gan", "cdpm", "ldm", "two-stage"]
Files = Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE...")]


def segment(
    images: Path,
    out: Path,
    backend: BackEnd = "lite",
    model: Path | None = None,
    labelmaps: Path | None = None,
    program: str = "",
    parc: bool = False,
    voxel_mm: float = 0.0,
    json: bool = False,
) -> None:
    """Segment images and write labels, volumes and QC scores, as evaluate reads them.

    An interrupted run goes on. Images that cannot be segmented are named; they count as not reliable
    where the back end gives scores, else they are left out.

    Example: tenfold anatomy segment real_prepared real_segmented

    Args:
        images: Folder of T1-weighted images: BIDS, or .nii.gz files.
        out: Folder to fill: labels, and volumes.tsv.
        backend: The built-in network; several atlases brought onto each image; tissue classes only; or SynthSeg, if it
            is installed.
        model: A network of train lite, in place of the one that comes with Tenfold.
        labelmaps: Folder of whole-head label maps, for atlas.
        program: SynthSeg's program, if it is not mri_synthseg on the PATH.
        parc: With SynthSeg: the 34 cortical regions, too.
        voxel_mm: Edge of a voxel of images without an affine.
        json: Print one JSON object instead of a line.
    """
    from tenfold.anatomy.segmenters import segment as segment_images
    from tenfold.anatomy.sets import open_images

    owners = (("model", model, "lite"), ("labelmaps", labelmaps, "atlas"), ("program", program, "synthseg"),
              ("parc", parc, "synthseg"))  # fmt: skip
    for option, value, owner in owners:
        if value and backend != owner:
            raise InputError(f"--{option}: goes with --backend {owner}, not with {backend}; leave it out")
    opened = open_images(images, voxel_mm=edge(voxel_mm))
    with progress_bar() as progress:
        if backend == "synthseg":
            from tenfold.anatomy.synthseg import run_synthseg

            measured = run_synthseg(opened, out, program=program, parc=parc, progress=progress)
        else:
            measured = segment_images(opened, _segmenter(backend, model, labelmaps), out, progress)
    _say(measured, out, json)


def people(
    labelmaps: Path,
    out: Path,
    count: int = 100,
    mm: float = 3.0,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Make prepared images of people who do not exist, out of label maps; their anatomy is known.

    Generators can learn from them where real images may not be used, and segmenters be checked.

    Example: tenfold anatomy people labelmaps made --count 200 --mm 4

    Args:
        labelmaps: Folder of whole-head label maps in FreeSurfer's numbers.
        out: Folder to fill: images, a sidecar, and their labels in truth.
        count: People.
        mm: Edge of a voxel.
        seed: Draws all; person i depends on the seed and i alone.
        json: Print one JSON object instead of a line.
    """
    from tenfold.anatomy.populations import make_people
    from tenfold.anatomy.sets import read_label_maps

    _positive(count, "--count")
    with progress_bar() as progress:
        made = make_people(read_label_maps(labelmaps), out, count, seed=seed, mm=mm, progress=progress)
    if json:
        print(json_format.dumps({"images": len(made), "folder": str(out)}))
    else:
        print(f"Written: {out}: {len(made):,} images of {mm:g} mm, their labels in {out / 'truth'}")


def train(
    kind: Kind,
    source: Path,
    out: Path,
    size: Literal["miniature", "paper"] = "miniature",
    budget: int = 4000,
    batch_size: int = 0,
    steps: int = 5000,
    pairs: int = 2000,
    held_out: Files = (),
    licence: str = "the user's own",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    json: bool = False,
) -> None:
    """Train a generator, or the built-in segmenter anew. An interrupted run goes on.

    Example: tenfold anatomy train ha-gan real_prepared hagan --budget 20000

    Args:
        kind: A generator, or lite, the segmenter.
        source: Folder of prepared images; for lite one of whole-head label maps.
        out: Folder of the run; OUT/model is the model.
        size: Of a generator: the paper's, or an eighth of its widths.
        budget: Images shown to a generator in all.
        batch_size: Of them at once; 0 is the paper's.
        steps: Of the segmenter, an image each.
        pairs: Spoilt images from which the predictor of the segmenter's quality learns.
        held_out: Files of label maps that the segmenter does not learn from; every third one if none is named.
        licence: Of the label maps, for the segmenter's card.
        device: Where.
        seed: Decides everything drawn.
        json: Print one JSON object instead of a line.
    """
    of_generators = {"size": size, "budget": budget, "batch_size": batch_size, "device": device}
    of_lite = {"steps": steps, "pairs": pairs, "held_out": held_out, "licence": licence}
    _refuse(of_generators if kind == "lite" else of_lite, kind)
    if kind == "lite":
        _train_lite(source, out, steps, pairs, held_out, licence, seed)
        facts: dict[str, object] = {"model": str(out / "model")}
    else:
        facts = _train_generator(kind, source, out, size, budget, batch_size, device, seed)
    if json:
        print(json_format.dumps(facts))
        return
    said = "".join(f"; {name.replace('_', ' ')} {value:,}" for name, value in facts.items() if isinstance(value, int))
    print(f"Written: {facts['model']}{said}")


def sample(
    model: Path,
    out: Path,
    count: int = 100,
    first: int = 0,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Sample images from a trained generator, with the affine and the sidecar of what it learned from.

    Example: tenfold anatomy sample hagan/model hagan_samples --count 400

    Args:
        model: Folder of train.
        out: Folder to fill; images that the same model and seed made are kept.
        count: Images.
        first: Number of the first one.
        seed: Image i depends on the seed and i alone.
        json: Print one JSON object instead of a line.
    """
    from tenfold.anatomy.generators.sampling import sample_into

    _positive(count, "--count")
    with progress_bar() as progress:
        written = sample_into(model, out, count, first=first, seed=seed, progress=progress)
    if json:
        print(json_format.dumps({"images": written, "folder": str(out)}))
    else:
        print(f"Written: {out}: {count:,} images, {written:,} of them new")


COMMANDS: dict[str, Callable[..., None]] = {
    "segment": segment,
    "people": people,
    "train": train,
    "sample": sample,
}


# --- what the verbs share ---------------------------------------------------------------------------------------------


def _segmenter(backend: BackEnd, model: Path | None, labelmaps: Path | None) -> "Segmenter":
    if backend == "lite":
        from tenfold.anatomy.lite import LiteSegmenter

        return LiteSegmenter(model)
    if backend == "tissue":
        from tenfold.anatomy.tissue import TissueSegmenter

        return TissueSegmenter()
    if labelmaps is None:
        raise InputError("--backend atlas needs --labelmaps, a folder of whole-head label maps")
    from tenfold.anatomy.atlas import AtlasSegmenter

    return AtlasSegmenter(labelmaps)


def _refuse(options: Mapping[str, object], kind: str) -> None:
    """Options of `train` that another kind has."""
    known = inspect.signature(train).parameters
    for name, value in options.items():
        if value != known[name].default:
            other = "a generator" if kind == "lite" else "lite"
            raise InputError(f"--{name.replace('_', '-')}: goes with {other}, not with {kind}; leave it out")


def _train_lite(
    source: Path, out: Path, steps: int, pairs: int, held_out: tuple[str, ...], licence: str, seed: int
) -> None:
    from tenfold.anatomy.lite_training import LiteConfig, teach_lite
    from tenfold.anatomy.sets import read_label_maps

    maps = read_label_maps(source)
    names = [one.path.name for one in maps]
    if unknown := [name for name in held_out if name not in names]:
        raise InputError(f"--held-out {unknown[0]}: is no file of {source}; it has {names[0]} and others")
    held = held_out or tuple(names[::3])
    with progress_bar() as progress:
        teach_lite(
            [one for one in maps if one.path.name not in held], [one for one in maps if one.path.name in held], out,
            LiteConfig(steps=steps, seed=seed), pairs=pairs, card_data={source.name: licence}, progress=progress,
        )  # fmt: skip


def _train_generator(
    kind: str, source: Path, out: Path, size: Literal["miniature", "paper"], budget: int, batch_size: int, device: str,
    seed: int,
) -> dict[str, object]:  # fmt: skip
    from tenfold.anatomy.generators import make_generator
    from tenfold.anatomy.generators.interface import Budget
    from tenfold.anatomy.generators.sampling import about_images
    from tenfold.anatomy.sets import open_images

    _positive(budget, "--budget")
    images = open_images(source)
    x, y, z = images[0].voxels_XYZ.shape
    generator = make_generator(kind, (x, y, z), size)
    cost = generator.fit(images, out / "run", Budget(budget, batch_size, seed), device=device)
    generator.save(out / "model", about_images(images))
    print(f"{cost.seconds:,.0f} s, at most {cost.peak_bytes / 2**30:.1f} GiB", file=sys.stderr)
    return {"model": str(out / "model"), "parameters": cost.parameters, "images_shown": cost.images}


def _say(measured: "Measured", out: Path, json: bool) -> None:
    from tenfold.anatomy.sidecars import read_refused

    table, refused = out / "volumes.tsv", read_refused(out)
    facts = {"images": len(measured), "regions": len(measured.regions), "groups": len(measured.groups),
             "table": str(table), "refused": refused}  # fmt: skip
    what = "with scores of 0" if measured.groups else "left out"
    for message in refused.values():
        print(f"{what}: {message}", file=sys.stderr)
    if json:
        print(json_format.dumps(facts))
        return
    scores = f", QC scores of {len(measured.groups)} groups" if measured.groups else ", no QC scores"
    print(f"Written: {table}: {len(measured):,} images, {len(measured.regions)} regions{scores}")


def edge(voxel_mm: float) -> float | None:
    """What `--voxel-mm` says; None where it is not given. Raises InputError where no voxel is of that size."""
    if not 0 <= voxel_mm < 100:
        raise InputError(f"--voxel-mm {voxel_mm}: give the edge of a voxel in mm, such as 1")
    return voxel_mm or None


def _positive(count: int, option: str) -> None:
    if count < 1:
        raise InputError(f"{option} {count}: give 1 or more")
