"""SynthSeg run over a set of images, where it is installed: FreeSurfer's `mri_synthseg`, or its own predict script.

    out/segmentation.json            by what, from which files
    out/batch_00020/                 labels and tables of 20 images, while not all are done: a killed call goes on
    out/NAME_dseg.nii.gz             labels, as SynthSeg has written them (1 mm)
    out/volumes.csv, out/qc.csv      its tables
    out/volumes.tsv, .json           the same as a table of ours, which `evaluate` reads; written last

The images are given to it as RAS files with a sound affine, whatever they are stored as: it trusts affines blindly.
Those that cannot be read, or that `prepare` could not process, are named in refused.tsv and have scores of 0.
`--robust` is never added: on images without skull it does worse than the plain network.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tenfold.anatomy.images import write_image
from tenfold.anatomy.segmenters import complete
from tenfold.anatomy.sets import ImageSet
from tenfold.anatomy.sidecars import read_json, read_refused, sha256_of, write_json, write_refused
from tenfold.anatomy.tables import read_measured, write_measured
from tenfold.anatomy.volumes import Measured
from tenfold.core.errors import InputError
from tenfold.core.files import replace_file, replace_folder
from tenfold.core.progress import Progress, no_progress

__all__ = ["find_synthseg", "run_synthseg"]

_PROGRAM = "mri_synthseg"
_ABOUT = "segmentation.json"
_TABLES = ("volumes.csv", "qc.csv")
_RESULT = "volumes.tsv"
_BATCH = 20  # images per call: a minute each, and starting up costs half of one


def find_synthseg(program: str = "") -> list[str]:
    """The program and its first arguments.

    Args:
        program: As typed in a shell, such as `python SynthSeg/scripts/commands/SynthSeg_predict.py` or
            `mri_synthseg --cpu`; where it is empty, `mri_synthseg`, on PATH or in FREESURFER_HOME.

    Raises:
        InputError: There is no such program.
    """
    try:
        words = shlex.split(program) or [_PROGRAM]
    except ValueError:
        raise InputError(f"program '{program}': has an open quotation mark; close it") from None
    home = os.environ.get("FREESURFER_HOME")
    found = shutil.which(words[0])
    if found is None and words == [_PROGRAM] and home:
        found = shutil.which(str(Path(home) / "bin" / _PROGRAM))
    if found is None:
        raise InputError(
            f"{words[0]}: is not installed here; install FreeSurfer 7.4 or SynthSeg and give its command, or segment "
            "with 'lite' or 'atlas'"
        )
    return [found, *words[1:]]


def run_synthseg(
    images: ImageSet,
    out: Path | str,
    program: str = "",
    *,
    parc: bool = False,
    progress: Progress = no_progress,
) -> Measured:
    """Segment a set of images with SynthSeg, and read what it has measured. What is done already is read only.

    Args:
        images: Prepared or not, with or without skull.
        out: A new or empty folder, or one that this call has filled before with the same images, voxels and program.
        program: As for `find_synthseg`.
        parc: Also the regions of the cortex.
        progress: Told of the phase "segmenting".

    Returns:
        The volumes and QC scores of all, in the order of the set.

    Raises:
        InputError: SynthSeg is not installed, fails, or leaves out an image; no image can be read; the folder holds
            other things or cannot be written.
    """
    place = Path(out)
    stated = None if images.voxel_mm is None else np.ravel(images.voxel_mm).tolist()
    about = {"segmenter": "synthseg", "program": program or _PROGRAM, "parc": parc, "voxel_mm": stated,
             "images": _hashes(images)}  # fmt: skip
    _check_folder(place, about)
    if (place / _RESULT).exists():
        return _gather(images, place)
    words = find_synthseg(program)
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / _ABOUT, about)
        batches = [place / f"batch_{start:05d}" for start in range(0, len(images), _BATCH)]
        for number, batch in enumerate(batches):
            progress("segmenting", number * _BATCH, len(images))
            if not batch.exists():
                _segment_batch(images, range(number * _BATCH, min((number + 1) * _BATCH, len(images))), batch,
                               words, parc)  # fmt: skip
        _join(images, batches, place)
        measured = _gather(images, place)
        write_measured(measured, place / _RESULT)
        for batch in batches:
            shutil.rmtree(batch)
    except OSError as error:
        raise InputError(f"{out}: cannot hold segmentations ({error.strerror}); choose another place") from None
    progress("segmenting", len(images), len(images))
    return measured


def _segment_batch(images: ImageSet, numbers: range, batch: Path, words: Sequence[str], parc: bool) -> None:
    """One call of the program; the folder appears when labels and tables are in it."""
    with replace_folder(batch) as partial:
        inputs, labels = partial / "input", partial / "labels"
        inputs.mkdir()
        refused = _hand_over(images, numbers, inputs)
        write_refused(partial, refused)
        if len(refused) < len(numbers):
            _run([*words, *_arguments(partial, parc)], partial / "synthseg.log", batch.parent)
            for table in _TABLES:
                if not (partial / table).is_file():
                    raise InputError(
                        f"{batch.parent}: SynthSeg has written no {table}; take one that knows --vol, --qc"
                    )
            for name in (images.names[number] for number in numbers):
                if name not in refused:
                    _keep_labels(labels, name, partial)
            shutil.rmtree(labels)
        shutil.rmtree(inputs)


def _hand_over(images: ImageSet, numbers: range, inputs: Path) -> dict[str, str]:
    """Write the images that can be read into a folder; what is wrong with the others, by name."""
    refused = {}
    for number in numbers:
        try:
            image = images[number]
        except InputError as error:
            refused[images.names[number]] = str(error)
        else:
            write_image(inputs / f"{images.names[number]}.nii.gz", image.voxels_XYZ, image.affine)
    return refused


def _join(images: ImageSet, batches: Sequence[Path], place: Path) -> None:
    """Tables one under the other, and labels side by side. Raises InputError where no batch had a readable image."""
    refused = {name: why for batch in batches for name, why in read_refused(batch).items()}
    write_refused(place, refused | dict(images.refused))
    batches = [batch for batch in batches if (batch / _TABLES[0]).exists()]
    if not batches:
        raise InputError(f"{place}: no image could be read; the first: {next(iter(refused.values()))}")
    for table in _TABLES:
        texts = [(batch / table).read_text(encoding="utf-8").splitlines() for batch in batches]
        if any(lines[:1] != texts[0][:1] for lines in texts):
            raise InputError(f"{place}: SynthSeg's tables of two batches have different columns; empty the folder")
        rows = [*texts[0][:1], *(line for lines in texts for line in lines[1:])]
        with replace_file(place / table) as partial:
            partial.write_text("\n".join(rows) + "\n", encoding="utf-8")
    for batch in batches:
        for path in batch.glob("*_dseg.nii.gz"):
            with replace_file(place / path.name) as partial:
                shutil.copyfile(path, partial)


def _arguments(place: Path, parc: bool) -> list[str]:
    volumes, qc = (str(place / table) for table in _TABLES)
    words = ["--i", str(place / "input"), "--o", str(place / "labels"), "--vol", volumes, "--qc", qc]
    return [*words, "--parc"] if parc else words


def _hashes(images: ImageSet) -> dict[str, str]:
    return {name: sha256_of(path) for path, name in zip(images.paths, images.names, strict=True)}


def _check_folder(place: Path, about: Mapping[str, object]) -> None:
    """The folder is new, or of the same call. Raises InputError where it holds anything else."""
    if not (place / _ABOUT).exists():
        if place.exists() and (not place.is_dir() or next(place.iterdir(), None) is not None):
            raise InputError(f"{place}: holds other things; choose an empty or a new folder")
        return
    found = read_json(place / _ABOUT)
    if odd := [key for key in about if found.get(key) != about[key]]:
        raise InputError(f"{place}: holds segmentations of another call ({odd[0]} differs); choose another folder")


def _run(words: Sequence[str], log: Path, place: Path) -> None:
    with log.open("wb") as file:
        status = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT).returncode
    if status:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
        raise InputError(
            f"{place}: {Path(words[0]).name} ended with status {status} ({lines[-1].strip()[:200]}); run "
            f"'{shlex.join(words[:1])} --help' to see that it works"
        )


def _keep_labels(labels: Path, name: str, place: Path) -> None:
    """SynthSeg's name for the labels of NAME.nii.gz is NAME_synthseg.nii.gz."""
    made = labels / f"{name}_synthseg.nii.gz"
    if not made.is_file():
        raise InputError(f"{name}: SynthSeg has written no labels for it; see whether it can read the image")
    made.replace(place / f"{name}_dseg.nii.gz")


def _gather(images: ImageSet, place: Path) -> Measured:
    """SynthSeg's tables in the order of the set, with the people's columns."""
    volumes, qc = (place / table for table in _TABLES)
    measured, refused = read_measured(volumes, qc=qc), read_refused(place)
    if absent := [name for name in images.names if name not in measured.subjects and name not in refused]:
        raise InputError(f"{volumes.name}: SynthSeg has measured nothing of {absent[0]}; see whether it can read it")
    people = images.people(measured.subjects)
    known = replace(
        measured, people=people, segmenter="synthseg", source=str(images.folder), processing=images.processing
    )
    return complete(images, known)
