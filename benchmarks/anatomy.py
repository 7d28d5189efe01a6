"""Image metrics, segmenters and the bench end to end, beside their peers: the same work, in turn, in one run.

    OMP_NUM_THREADS=2 python benchmarks/anatomy.py --data FOLDER --json build/anatomy.json [--out PAGE.md] [--quick]

- 3-D MS-SSIM of a pair of 96 x 112 x 96 voxels: ours, MONAI's, and NumPy with SciPy's filters;
- FID of 400 x 2048 features: ours from matrices of images by images, and with scipy.linalg.sqrtm as is usual;
- MMD of the same features: ours, and MONAI's, whose kernel is linear;
- segmentation of a real T1: `lite` with its arithmetic per second; `atlas` beside a plain loop of SimpleITK;
- real and other brains from files to the verdict: images per minute and the most memory, in a process of its own.

FOLDER holds label maps in `labelmaps` and stripped T1-weighted images in `t1`, as the tests have them; without it only
the metrics are timed. MONAI is left out where it is not installed (pip install --no-deps monai). Threads are those of
OMP_NUM_THREADS for every library.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from scipy import ndimage

from tenfold.anatomy import Bench, frechet, mmd, mmd_test, ms_ssim, open_images, prepare, read_image
from tenfold.anatomy.appearance import compare_appearance
from tenfold.anatomy.distances import linear_mmd
from tenfold.anatomy.images import Image, read_labels
from tenfold.anatomy.segmenters import Segmenter, segment
from tenfold.anatomy.ssim import WEIGHTS, Scales
from tenfold.core.artifacts import ModelCard, save_model
from tenfold.core.errors import InputError
from tenfold.core.machine import processor
from tenfold.core.reports import Cell, Table

SHAPE = (96, 112, 96)
IMAGES, FEATURES = 400, 2048
THREADS = int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1
Work = Callable[[], object]

HEAD = """# Speed of anatomy

Written by `benchmarks/anatomy.py`; its first lines say what is timed. Times are medians of rounds in turn, with the
least and the most. Ratios are of processor time, which other work on the machine hardly changes: above 1 we are faster.

"""


def main() -> None:
    """Measure and print; as a child, go from files to the verdict."""
    options = parse()
    torch.set_num_threads(THREADS)
    if options.child:
        print(json.dumps(end_to_end(*options.child)))
        return
    tables = []
    for make in (similarity_table, distance_table, *([segmenter_table, whole_table] if options.data else [])):
        tables.append(make(options))
        tables[-1].print()
    page = "\n".join(table.to_markdown() for table in tables)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([json.loads(table.to_json()) for table in tables], indent=1) + "\n")
    if options.out:
        options.out.write_text(HEAD + page)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with labelmaps and t1")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds; medians are shown")
    parser.add_argument("--json", type=Path, help="where results go too")
    parser.add_argument("--out", type=Path, help="a Markdown page to write")
    parser.add_argument("--quick", action="store_true", help="few rounds and small work: shows that it runs")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.repeats = 2
    return options


@dataclass
class Times:
    """Seconds of the rounds of one work: on the clock, and of all processors together."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def take(self, work: Work) -> object:
        """Do it once more."""
        start, processors = time.perf_counter(), time.process_time()
        done = work()
        self.wall.append(time.perf_counter() - start)
        self.cpu.append(time.process_time() - processors)
        return done

    def cells(self, scale: float = 1.0) -> list[Cell]:
        """Median, spread, and median of the processors."""
        spread = "once" if len(self.wall) == 1 else f"{scale * min(self.wall):,.1f} to {scale * max(self.wall):,.1f}"
        return [scale * statistics.median(self.wall), spread, scale * statistics.median(self.cpu)]


def alternate(works: Mapping[str, Work], repeats: int) -> dict[str, Times]:
    """Turn by turn, every second round in reverse."""
    found = {name: Times() for name in works}
    for turn in range(repeats):
        for name in list(works)[:: 1 if turn % 2 == 0 else -1]:
            found[name].take(works[name])
    return found


def timed(works: Mapping[str, Work], repeats: int) -> list[list[Cell]]:
    """A row per work: milliseconds, the ratio to the first, and the value that comes out."""
    values = {name: float(work()) for name, work in works.items()}  # type: ignore[arg-type]
    rows = [[name, *times.cells(1e3)] for name, times in alternate(works, repeats).items()]
    return [[*row, row[3] / rows[0][3], values[str(row[0])]] for row in rows]  # type: ignore[operator]


COLUMNS = ["what", "ms", "least to most", "CPU ms", "CPU by ours", "value"]


# --- MS-SSIM ---------------------------------------------------------------------------------------------------------


def similarity_table(options: argparse.Namespace) -> Table:
    """One pair in float32; SciPy in float64, as the paper's code."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 3)
    one = np.clip(smooth / np.abs(smooth).max() * 1.2, -1, 1)
    other = np.clip(one + np.random.default_rng(1).normal(0, 0.1, SHAPE), -1, 1)
    three = WEIGHTS[:3]  # MONAI asks for 99 voxels a side where there are four
    scales = Scales(11, tuple(weight / sum(three) for weight in three))
    pair = [torch.from_numpy(each.astype(np.float32))[None] for each in (one, other)]
    works: dict[str, Work] = {"ours": lambda: ms_ssim(*pair, scales)}
    works["NumPy and SciPy, separable filters, float64"] = lambda: plain_ms_ssim(one, other, scales.weights)
    if (regression := peer("monai.metrics.regression")) is not None:
        works["MONAI"] = lambda: regression.compute_ms_ssim(
            pair[0][None], pair[1][None], 3, data_range=2.0, weights=scales.weights
        )
    size = " x ".join(map(str, SHAPE))
    return Table(
        f"3-D MS-SSIM of a pair of {size}, window 11, 3 scales",
        COLUMNS,
        timed(works, options.repeats),
        [versions(), machine()],
    )


def plain_ms_ssim(one: NDArray[np.float64], other: NDArray[np.float64], weights: tuple[float, ...]) -> float:
    """The definition with SciPy's Gaussian filter, where windows of 11 fit."""
    inner, value = (slice(5, -5),) * 3, 1.0
    for level, weight in enumerate(weights):
        if level:
            one, other = halved(one), halved(other)
        m, n, s, t, both = (
            ndimage.gaussian_filter(each, 1.5, radius=5)[inner]
            for each in (one, other, one * one, other * other, one * other)
        )
        term = (2 * (both - m * n) + 0.06**2) / (s - m * m + t - n * n + 0.06**2)
        if level == len(weights) - 1:
            term = term * (2 * m * n + 0.02**2) / (m * m + n * n + 0.02**2)
        value *= max(float(term.mean()), 0.0) ** weight
    return value


def halved(volume: NDArray[np.float64]) -> NDArray[np.float64]:
    """Averages over cubes of 2."""
    x, y, z = (size // 2 for size in volume.shape)
    return volume[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2).mean((1, 3, 5))


# --- distances -------------------------------------------------------------------------------------------------------


def distance_table(options: argparse.Namespace) -> Table:
    """FID with scipy.linalg.sqrtm is timed once: it takes half a minute and more."""
    draw = np.random.default_rng(0)
    mixing = draw.normal(size=(64, FEATURES // 4 if options.quick else FEATURES))
    real, made = (
        np.maximum(draw.normal(shift, 1, (IMAGES, 64)) @ mixing + draw.normal(0, 4, (IMAGES, mixing.shape[1])), 0)
        for shift in (0.0, 0.1)
    )
    rows = timed({"FID, ours": lambda: frechet(real, made)}, options.repeats)
    usual = Times()
    value = usual.take(lambda: usual_frechet(real, made))
    rows.append(["FID, scipy.linalg.sqrtm", *usual.cells(1e3), 1e3 * usual.cpu[0] / rows[0][3], value])  # type: ignore
    works: dict[str, Work] = {"MMD, linear kernel, ours": lambda: linear_mmd(real, made)}
    if (monai := peer("monai.metrics")) is not None:
        tensors = torch.from_numpy(real), torch.from_numpy(made)
        works["MMD, linear kernel, MONAI"] = lambda: monai.MMDMetric()(*tensors)
    works["MMD, Gaussian kernel, median bandwidth, ours"] = lambda: mmd(real, made)
    works["the same with p of 1,000 permutations"] = lambda: mmd_test(real, made)[0]
    rows += timed(works, options.repeats)
    title = f"Distances of {IMAGES} and {IMAGES} images, {mixing.shape[1]:,} features, float64"
    return Table(title, COLUMNS, rows, ["CPU by ours: of FID, and of MMD with a linear kernel", versions(), machine()])


def usual_frechet(real: NDArray[np.float64], made: NDArray[np.float64]) -> float:
    """FID with the root of a matrix of features by features."""
    one, other = np.cov(real, rowvar=False), np.cov(made, rowvar=False)
    root = scipy.linalg.sqrtm(one @ other)
    shift = ((real.mean(0) - made.mean(0)) ** 2).sum()
    return float(shift + np.trace(one) + np.trace(other) - 2 * np.trace(root).real)


# --- segmenters ------------------------------------------------------------------------------------------------------


def segmenter_table(options: argparse.Namespace) -> Table:
    """Seconds for one scan; rows of parts that are missing say so."""
    data, atlases = options.data, 1 if options.quick else 5
    image = read_image(sorted((data / "t1").glob("sub-*_T1w.nii.gz"))[0])
    rows: list[list[Cell]] = []
    with tempfile.TemporaryDirectory() as scratch:
        lite, how = open_lite(Path(scratch))
        lite(image)
        rows.append(
            [
                f"lite, {how}",
                *alternate({"": lambda: lite(image)}, options.repeats)[""].cells(),
                arithmetic(lite, image),
            ]
        )
    own = None
    if (module := peer("tenfold.anatomy.atlas")) is None:
        rows.append([f"atlas, {atlases} atlas(es): not in this version", None, None, None, None])
    else:
        segmenter = module.AtlasSegmenter(data / "labelmaps", atlases)
        segmenter(image)  # makes its atlases, which it keeps
        own = Times()
        own.take(lambda: segmenter(image))
        rows.append([f"atlas, {atlases} atlases, made before", *own.cells(), None])
    loop = Times()
    loop.take(lambda: plain_atlases(data / "labelmaps", image, atlases))
    ratio = "" if own is None else f", {loop.cpu[0] / own.cpu[0]:.1f} times ours"
    rows.append([f"SimpleITK, a plain loop over {atlases} atlases{ratio}", *loop.cells(), None])
    size = " x ".join(map(str, image.voxels_XYZ.shape))
    title = f"Segmentation of a stripped T1 of {size} voxels of {image.zooms[0]:g} mm"
    notes = ["GFLOP/s: multiplications and additions of the convolutions, by the CPU seconds of the network alone"]
    return Table(
        title, ["segmenter", "s per scan", "least to most", "CPU s", "GFLOP/s"], rows, [*notes, versions(), machine()]
    )


def open_lite(scratch: Path) -> tuple[Segmenter, str]:
    """The built-in segmenter; untrained where its weights are not there, for its speed hardly depends on them."""
    from tenfold.anatomy.lite import LiteSegmenter  # noqa: PLC0415
    from tenfold.anatomy.lite_training import LiteConfig  # noqa: PLC0415
    from tenfold.anatomy.synth import CLASSES  # noqa: PLC0415
    from tenfold.anatomy.unet import UNet  # noqa: PLC0415

    try:
        return LiteSegmenter(), "its weights"
    except (InputError, OSError):
        config = LiteConfig()
        torch.manual_seed(0)
        net = UNet(len(CLASSES), config.features, config.levels)
        card = ModelCard("Untrained", "anatomy", "For timing.", {}, {}, "Timing.", "Untrained.", "apache-2.0")
        save_model(
            scratch, net.state_dict(), {"kind": "lite", "classes": list(CLASSES), "maps": []} | asdict(config), card
        )
        return LiteSegmenter(scratch), "untrained"


def arithmetic(segmenter: Segmenter, image: Image) -> float:
    """10^9 floating-point operations of convolutions per second of a processor."""
    operations, seconds, started = 0, 0.0, 0.0

    def before(*_: object) -> None:
        nonlocal started
        started = time.process_time()

    def after(*_: object) -> None:
        nonlocal seconds
        seconds += time.process_time() - started

    def count(one: torch.nn.Conv3d, _: object, output: torch.Tensor) -> None:
        nonlocal operations
        operations += 2 * output.numel() * one.in_channels * int(np.prod(one.kernel_size))

    network = segmenter.network  # type: ignore[attr-defined]
    hooks = [network.register_forward_pre_hook(before), network.register_forward_hook(after)]
    hooks += [one.register_forward_hook(count) for one in network.modules() if isinstance(one, torch.nn.Conv3d)]
    segmenter(image)
    for hook in hooks:
        hook.remove()
    return operations / seconds / 1e9


def plain_atlases(folder: Path, image: Image, count: int) -> NDArray[np.int16]:
    """What one writes first: per atlas a made T1, affine by mutual information, demons, nearest labels; then a vote."""
    sitk = importlib.import_module("SimpleITK")

    from tenfold.anatomy.synth import paint, strip  # noqa: PLC0415

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(THREADS)
    fixed, votes = itk(sitk, image.voxels_XYZ, image.affine), []
    for number, path in enumerate(sorted(folder.glob("*.nii.gz"))[:count]):
        labels = read_labels(path)
        brain = strip(labels.labels_XYZ, grow=1)
        moving = itk(sitk, paint(brain, np.random.default_rng(number)), labels.affine)
        affine = register(sitk, fixed, moving)
        moved = sitk.HistogramMatching(sitk.Resample(moving, fixed, affine, sitk.sitkLinear), fixed)
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(50)
        demons.SetStandardDeviations(1.5)
        field = sitk.DisplacementFieldTransform(sitk.Cast(demons.Execute(fixed, moved), sitk.sitkVectorFloat64))
        both = sitk.CompositeTransform([affine, field])
        warped = sitk.Resample(
            itk(sitk, brain.astype(np.float32), labels.affine), fixed, both, sitk.sitkNearestNeighbor
        )
        votes.append(sitk.Cast(warped, sitk.sitkUInt16))
    return np.asarray(sitk.GetArrayFromImage(sitk.LabelVoting(votes)), np.int16)


def itk(sitk: Any, voxels: NDArray[np.float32], affine: NDArray[np.float64]) -> object:
    """An image of SimpleITK, whose axes point left and to the back."""
    made = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    flip, sizes = np.diag([-1.0, -1.0, 1.0]), np.linalg.norm(affine[:3, :3], axis=0)
    made.SetSpacing(sizes.tolist())
    made.SetOrigin((flip @ affine[:3, 3]).tolist())
    made.SetDirection((flip @ affine[:3, :3] / sizes).ravel().tolist())
    return made


def register(sitk: Any, fixed: object, moving: object) -> object:
    """Affine, by mutual information, on three levels."""
    start = sitk.CenteredTransformInitializer(
        fixed,
        moving,
        sitk.AffineTransform(3),
        sitk.CenteredTransformInitializerFilter.MOMENTS,
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescent(1.0, 100, 1e-6, 10)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetInitialTransform(start, inPlace=False)
    return method.Execute(fixed, moving)


# --- from files to the verdict ---------------------------------------------------------------------------------------


def whole_table(options: argparse.Namespace) -> Table:
    """In a process of its own, so that its memory can be told."""
    count = 2 if options.quick else 7
    brains = sorted((options.data / "t1").glob("sub-*_T1w.nii.gz"))
    with tempfile.TemporaryDirectory() as scratch:
        for name, some in {"real": brains[:count], "other": brains[count : 2 * count]}.items():
            (Path(scratch) / name).mkdir()
            for path in some:
                (Path(scratch) / name / path.name).symlink_to(path.resolve())
        command = [sys.executable, __file__, "--child", str(brains[-1]), scratch]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    phases: dict[str, list[float]] = found["phases"]
    phases["all"] = [sum(each) for each in zip(*phases.values(), strict=True)]
    rows: list[list[Cell]] = [[name, *both, both[1] / (2 * count)] for name, both in phases.items()]
    rate, memory = (2 * count * 60 / seconds for seconds in phases["all"]), found["peak_mb"]
    notes = [
        "images per minute: {:.1f} on the clock, {:.1f} of processor time".format(*rate),
        f"at most {memory:,.0f} MB of memory, libraries included",
        f"prepared at 2 mm: N4, affine; segmented by lite, {found['lite']}; page with slices and metrics",
        machine(),
    ]
    return Table(f"From {2 * count} files of 2 mm to the page", ["phase", "s", "CPU s", "CPU s per image"], rows, notes)


def end_to_end(template: Path, scratch: Path) -> dict[str, object]:
    """Prepare, segment, compare and write."""
    phases: dict[str, tuple[float, float]] = {}

    def clock(name: str, start: tuple[float, float]) -> tuple[float, float]:
        now = time.perf_counter(), time.process_time()
        phases[name] = now[0] - start[0], now[1] - start[1]
        return now

    start = time.perf_counter(), time.process_time()
    sets = {}
    for name in ("real", "other"):
        out = scratch / f"{name}_prepared"
        sets[name] = prepare(open_images(scratch / name, name), template, out, mm=2, mask="stripped").images
    start = clock("prepare", start)
    lite, how = open_lite(scratch / "lite")
    volumes = {name: segment(images, lite, scratch / f"{name}_seg") for name, images in sets.items()}
    start = clock("segment", start)
    looks = compare_appearance(sets["real"], {"other": sets["other"]})
    start = clock("image metrics, slices", start)
    found = Bench(volumes["real"], adjust="none").evaluate({"other": volumes["other"]})
    found.write(scratch / "report", looks.tables, looks.drawings)
    clock("verdict, page", start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"phases": phases, "peak_mb": peak, "lite": how}


# --- what was there --------------------------------------------------------------------------------------------------


def peer(name: str) -> "object | None":
    """A module, or None with a line where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f"left out: {name}: {error}", file=sys.stderr)
        return None


def versions() -> str:
    """Of the packages that were timed."""
    names = ("torch", "numpy", "scipy", "SimpleITK", "monai")
    return ", ".join(f"{name} {version(name)}" for name in names)


def version(name: str) -> str:
    """Of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def machine() -> str:
    """The processor and the threads."""
    return f"{processor()}, threads: {THREADS}"


if __name__ == "__main__":
    main()
