"""Samples of a trained generator as files for the bench, with affine and sidecar of what it learned from."""

# X right · Y anterior · Z superior

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.anatomy.generators import load_generator
from tenfold.anatomy.images import write_image
from tenfold.anatomy.sets import ImageSet
from tenfold.anatomy.sidecars import check_same, claim, read_json, read_processing, read_sidecar, write_sidecar
from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress

__all__ = ["about_images", "sample_into"]

_ABOUT = "samples.json"


def about_images(images: ImageSet) -> dict[str, object]:
    """What a generator's config.json says of the images it learned from: how many, their affine and processing."""
    processing = None if images.processing is None else asdict(images.processing)
    return {"images": len(images), "affine": images[0].affine.tolist(), "processing": processing}


def sample_into(
    model: Path, out: Path, count: int, *, first: int = 0, seed: int = 0, progress: Progress = no_progress
) -> int:
    """Write samples `first` to `first + count - 1` as generated_sample_NUMBER.nii.gz, one at a time.

    Args:
        model: A generator's model folder.
        out: Folder to fill; what the same model and seed made before is kept.
        count: Images.
        first: The first one's number.
        seed: Image i depends on the seed and i alone.
        progress: Told of the phase "sampling".

    Returns:
        How many were not there before.

    Raises:
        InputError: No generator in the folder; the folder holds images of another model, seed or processing, or
            cannot be written.
    """
    generator, about = load_generator(model), read_json(model / "config.json").get("about", {})
    affine, written = _affine(about, model), 0
    if first < 0 or seed < 0:
        raise InputError(f"first {first}, seed {seed}: give 0 or more")
    try:
        out.mkdir(parents=True, exist_ok=True)
        claim(out, _ABOUT, {"seed": seed, "weights_sha256": _sha256(model)}, "generated_sample_*")
        _describe(about, out)
        for number in range(first, first + count):
            target = out / f"generated_sample_{number}.nii.gz"
            if not target.exists():
                write_image(target, generator.sample(1, seed, first=number)[0], affine)
                written += 1
            progress("sampling", number - first + 1, count)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another place") from None
    return written


def _sha256(model: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _affine(about: Mapping[str, Any], model: Path) -> np.ndarray:
    affine = np.asarray(about.get("affine", np.nan), np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise InputError(f"{model}: its config.json has no affine; train it again")
    return affine


def _describe(about: Mapping[str, Any], out: Path) -> None:
    stated = about.get("processing")
    if stated is None:
        return
    processing = read_processing(stated, "the model's config.json")
    if (earlier := read_sidecar(out)) is not None:
        check_same(earlier, processing, str(out), "the model")
    write_sidecar(out, processing)
