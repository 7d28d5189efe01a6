"""Sets of images as people keep them: BIDS folders, plain folders, samples of a generator. Read one at a time."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tenfold.anatomy.images import Image, LabelMap, read_image, read_labels
from tenfold.anatomy.sidecars import Processing, read_refused, read_sidecar
from tenfold.core.errors import InputError

__all__ = ["ImageSet", "find_labels", "find_masks", "list_label_maps", "open_images", "read_label_maps"]

_NO_IMAGE = re.compile(r"_(dseg|probseg|mask|aseg|synthseg|seg|T2w|FLAIR|bold|dwi)\.nii(\.gz)?$")
_ENDING = re.compile(r"(_T1w)?\.nii(\.gz)?$")
_MASK_ENDING = re.compile(r"_(brainmask|mask|dseg)\.nii(\.gz)?$")
_LABEL_ENDING = re.compile(r"(_T1w)?_(dseg|synthseg)\.nii(\.gz)?$")
_OWN_ENTITIES = re.compile(r"_(desc|space|res)-[A-Za-z0-9]+")


@dataclass(frozen=True)
class ImageSet:
    """Images of one origin. Iterating reads one after the other; none is kept.

    Attributes:
        name: How results call the set.
        folder: Where it lies.
        paths: The files, in the order of their names (numbers in names by value).
        names: A name per image, unique in the set, without `desc-`, `space-`, `_T1w` and ending.
        voxel_mm: Given for files that state no voxel size.
        processing: What the folder's sidecar says; None where there is none.
        participants: Columns of participants.tsv by participant, such as age and sex; empty where there is no table.
        refused: Images that `prepare` could not process, by name, and what is wrong with each; they have no file here.
    """

    name: str
    folder: Path
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    voxel_mm: float | Sequence[float] | None = None
    processing: Processing | None = None
    participants: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Image:
        return read_image(self.paths[number], self.voxel_mm)

    def __iter__(self) -> Iterator[Image]:
        return (read_image(path, self.voxel_mm) for path in self.paths)

    def take(self, numbers: Sequence[int]) -> "ImageSet":
        """Some of the images, by number; those that were refused are not among them."""
        paths, names = tuple(self.paths[number] for number in numbers), tuple(self.names[number] for number in numbers)
        return replace(self, paths=paths, names=names, refused={})

    def readable(self) -> "ImageSet":
        """Those that can be read; a generator that has failed makes blank ones, or such with NaN."""
        return self.take([number for number in range(len(self)) if self._is_readable(number)])

    def _is_readable(self, number: int) -> bool:
        try:
            self[number]
        except InputError:
            return False
        return True

    def subjects(self) -> tuple[str, ...]:
        """The participant of each image: `sub-01` of `sub-01_ses-2`, else the image's name."""
        return tuple(map(_subject, self.names))

    def people(self, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The columns of `participants` for images of these names, by column; "" where nothing is known.

        The participant IXI012-HH-1211 is found for sub-IXI012HH1211, too, as `prepare` has to call it.
        """
        columns = next(iter(self.participants.values()), {})
        plain = {_plain_name(name): row for name, row in self.participants.items()}
        subjects = [_subject(name) for name in names]
        rows = [self.participants.get(name) or plain.get(_plain_name(name), {}) for name in subjects]
        return {column: tuple(row.get(column, "") for row in rows) for column in columns}


def open_images(
    folder: Path | str, name: str | None = None, voxel_mm: float | Sequence[float] | None = None
) -> ImageSet:
    """Find the T1-weighted images of a folder; none is read yet.

    A folder with `sub-*/` is BIDS: `sub-*/[ses-*/]anat/*_T1w.nii.gz`. In any other, the files named `*_T1w` are
    taken if there are any, else all NIfTI files but segmentations and masks (`generated_sample_0.nii.gz`, ...).

    Args:
        folder: The folder.
        name: How results call the set; the folder's name where none is given.
        voxel_mm: Voxel size in mm of files that state none, such as samples with an identity affine.

    Raises:
        InputError: No folder, no image in it, two images of one name, or a damaged sidecar or participants.tsv.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{folder}: is no folder; name one with .nii.gz images")
    paths = _bids(root) or _plain_folder(root)
    if not paths:
        raise InputError(f"{folder}: has no T1-weighted image (sub-*/anat/*_T1w.nii.gz or *.nii.gz)")
    names = tuple(_OWN_ENTITIES.sub("", _ENDING.sub("", path.name)) for path in paths)
    if twice := next((one for one in names if names.count(one) > 1), None):
        raise InputError(f"{folder}: has two images of {twice}; keep one of them in a folder")
    return ImageSet(
        name or root.resolve().name,
        root,
        tuple(paths),
        names,
        voxel_mm,
        read_sidecar(root),
        _participants(root),
        read_refused(root),
    )


def find_masks(folder: Path, images: ImageSet) -> dict[str, Path]:
    """The mask or segmentation of each image, by the image's name; `_mask`, `_dseg`, in this folder or below.

    Raises:
        InputError: No folder, none that fits, or two of one image.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; name one with *_mask.nii.gz or *_dseg.nii.gz")
    found = _matching(sorted(folder.rglob("*.nii*")), _MASK_ENDING, images)
    if not found:
        raise InputError(f"{folder}: has no mask of any image, such as {images.names[0]}_mask.nii.gz")
    return found


def find_labels(source: Path, images: ImageSet) -> dict[str, Path]:
    """The label file of each image that has one, by the image's name: `_dseg`, `_synthseg`.

    Args:
        source: A folder that is searched with its subfolders, or a table of volumes, beside which labels may lie.
        images: Whose labels are looked for.

    Raises:
        InputError: Two of one image.
    """
    paths = source.rglob("*.nii*") if source.is_dir() else source.parent.glob("*.nii*")
    return _matching(sorted(paths), _LABEL_ENDING, images)


def list_label_maps(folder: Path) -> list[Path]:
    """The files of whole-head label maps in a folder, by name.

    Raises:
        InputError: No folder, or none in it.
    """
    found = [path for end in ("*.nii", "*.nii.gz") for path in folder.glob(end) if path.name[0] != "."]
    if not found:
        raise InputError(f"{folder}: has no label maps; give a folder with whole-head label maps as .nii.gz")
    return sorted(found)


def read_label_maps(folder: Path, without: Sequence[str] = ()) -> list[LabelMap]:
    """The whole-head label maps of a folder, by name, but for some files.

    Raises:
        InputError: As `list_label_maps` and `read_labels`; or none is left.
    """
    paths = list_label_maps(folder)
    if not (left := [path for path in paths if path.name not in without]):
        raise InputError(f"{folder}: has only label maps that the segmenter has learned from; add others")
    return [read_labels(path) for path in left]


def _subject(name: str) -> str:
    return name.split("_")[0] if name.startswith("sub-") else name


def _plain_name(subject: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", subject.removeprefix("sub-"))


def _matching(paths: Sequence[Path], ending: re.Pattern[str], images: ImageSet) -> dict[str, Path]:
    names, found = set(images.names), dict[str, Path]()
    for path in paths:
        name = _OWN_ENTITIES.sub("", ending.sub("", path.name))
        if not ending.search(path.name) or name not in names:
            continue
        if name in found:
            raise InputError(f"{path.parent}: has two files of {name}, {found[name].name} and {path.name}; keep one")
        found[name] = path
    return found


def _bids(root: Path) -> list[Path]:
    found: list[Path] = []
    for pattern in ("sub-*/anat", "sub-*/ses-*/anat"):
        for ending in ("nii", "nii.gz"):
            found += root.glob(f"{pattern}/*_T1w.{ending}")
    return sorted(found, key=_by_number)


def _plain_folder(root: Path) -> list[Path]:
    found = [path for ending in ("nii", "nii.gz") for path in root.glob(f"*.{ending}") if path.name[0] != "."]
    weighted = [path for path in found if "_T1w." in path.name]
    return sorted(weighted or [path for path in found if not _NO_IMAGE.search(path.name)], key=_by_number)


def _by_number(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """generated_sample_10 comes behind generated_sample_9; names decide between sample_1 and sample_01."""
    pieces = re.split(r"(\d+)", path.name)
    return [(1, int(piece), "") if piece.isdecimal() else (0, 0, piece) for piece in pieces], path.name


def _participants(root: Path) -> dict[str, dict[str, str]]:
    path = root / "participants.tsv"
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({str(error)[:100]}); write it as UTF-8 with tabs") from None
    if rows and "participant_id" not in rows[0]:
        raise InputError(f"{path}: has no column participant_id; the first line must name the columns")
    if any(row["participant_id"] is None for row in rows):
        raise InputError(f"{path}: a row is too short to have a participant_id; give every row all columns")
    return {row.pop("participant_id"): {key: value or "" for key, value in row.items() if key} for row in rows}
