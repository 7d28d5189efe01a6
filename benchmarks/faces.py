"""Faces per second of the student and its peers, as ratios: in turn, in one run, with as many threads allowed to each.

    python benchmarks/faces.py --data FOLDER --json build/faces.json [--quick]

- embedding: the default student at 16 px and at 32 px with torch, as ONNX in float32 and in int8, against dlib's
  embedder, which the package face_recognition wraps (pip install dlib-bin face_recognition_models), in batches of 256
  and one by one, and against the 934 faces per second that the paper reports for a CPU;
- detection, apart: Haar cascades on whole pictures, against dlib's frontal detector;
- bytes: weights of a model, what it holds of a face while it runs, a template.

The student is as it comes from its seed, untrained: its speed does not depend on its weights. FOLDER holds pictures;
without it crops are noise, and detection is left out.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from tenfold.core.artifacts import ModelCard, save_model
from tenfold.core.machine import processor
from tenfold.core.reports import Cell, Table
from tenfold.faces import (
    HaarDetector,
    StudentConfig,
    StudentNet,
    export_int8,
    export_onnx,
    load,
    load_teacher,
    read_faces,
)
from tenfold.faces.crops import crop_faces
from tenfold.faces.model import describe
from tenfold.faces.pictures import read_picture

PAPER = 934  # faces per second on a CPU, as the paper's abstract and introduction say
BATCH = 256
Embed = Callable[[np.ndarray], object]
Work = tuple[Callable[..., object], Sequence[np.ndarray] | np.ndarray]  # what is timed, and on which pictures


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    crops, pictures = read(options.data, BATCH)
    with tempfile.TemporaryDirectory() as scratch:
        works, sizes = embedders(crops, Path(scratch))
        tables = [speed_table(works, crops, options.repeats), bytes_table(sizes)]
    if pictures:
        tables.append(detection_table(pictures[:4] if options.quick else pictures, options.repeats))
    for table in tables:
        table.print()
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([json.loads(table.to_json()) for table in tables], indent=1) + "\n")
        options.json.with_suffix(".md").write_text("\n".join(table.to_markdown() for table in tables))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of pictures")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds; medians are shown")
    parser.add_argument("--json", type=Path, help="where results go too, and as .md beside")
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it runs")
    options = parser.parse_args()
    if options.quick:
        options.repeats = 2
    return options


def read(folder: Path | None, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """So many crops of 112 px, and whole pictures for detection."""
    if folder is None:
        return np.random.default_rng(0).integers(0, 256, (count, 112, 112, 3), np.uint8), []
    faces = read_faces(folder, "none")
    chosen = faces.subset(np.resize(np.arange(len(faces)), count))
    crops = np.ascontiguousarray(crop_faces(chosen, None).usable().crops_NSSC)
    return np.resize(crops, (count, 112, 112, 3)), [read_picture(source) for source in faces.sources[:32]]


def embedders(crops: np.ndarray, scratch: Path) -> tuple[dict[str, Embed], dict[str, int]]:
    """What turns crops into vectors, and the bytes of its weights; dlib only where it is installed."""
    works: dict[str, Embed] = {}
    sizes: dict[str, int] = {}
    for size in (16, 32):
        torch.manual_seed(0)
        net, folder = StudentNet(StudentConfig(size)), scratch / str(size)
        card = ModelCard("Untrained", "faces", "For timing.", {}, {}, "Timing.", "Untrained.", "apache-2.0")
        save_model(folder, net, describe(net), card)
        export_onnx(folder, scratch / f"{size}.onnx")
        cost = export_int8(folder, crops, scratch / f"{size}-int8.onnx")
        works[f"student {size} px, torch"] = load(folder).embed_crops
        works[f"student {size} px, ONNX"] = load(scratch / f"{size}.onnx").embed_crops
        works[f"student {size} px, ONNX int8"] = load(scratch / f"{size}-int8.onnx").embed_crops
        sizes[f"student {size} px, float32"] = 4 * sum(x.numel() for x in net.parameters())
        sizes[f"student {size} px, int8"] = cost.weights_bytes
        sizes[f"student {size} px, activations of a face at the peak, float32"] = peak_activation_bytes(net, size)
    try:
        teacher = load_teacher("dlib")
    except ValueError as error:
        print(error)
    else:
        works["dlib 150 px"] = teacher.embed
        package = Path(importlib.import_module("importlib.util").find_spec("face_recognition_models").origin).parent
        sizes["dlib 150 px"] = (package / "models/dlib_face_recognition_resnet_model_v1.dat").stat().st_size
    return works, sizes


def peak_activation_bytes(net: StudentNet, size: int) -> int:
    """The most that the input and the output of a convolution take together, for one face in float32.

    Batch norm is folded away in use and ReLU works in place. The paper's 0.057 MB may be a number of this kind.
    """
    most = 0

    def look(_: object, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal most
        most = max(most, 4 * (inputs[0].numel() + output.numel()))

    hooks = [one.register_forward_hook(look) for one in net.modules() if isinstance(one, torch.nn.Conv2d)]
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return most


def speed_table(works: dict[str, Embed], crops: np.ndarray, repeats: int) -> Table:
    """In batches, and one by one; dlib gets fewer faces, for it takes some 0.08 s for each."""
    rows: list[list[Cell]] = []
    batched = alternate(
        {name: (work, crops[: 8 if "dlib" in name else BATCH]) for name, work in works.items()}, repeats
    )
    single = alternate({name: (work, crops[:1]) for name, work in works.items()}, 3 * repeats)
    peer = next((batched[name][0] for name in works if "dlib" in name), None)
    for name, (median, least, most) in batched.items():
        spread = f"{1 / most:,.0f} to {1 / least:,.0f}"
        ratio = None if peer is None else peer / median
        rows.append([name, 1 / median, spread, 1 / median / PAPER, ratio, 1e3 * single[name][0]])
    columns = ["embedder", "faces/s, batches", "least to most", "times the paper's 934", "times dlib", "ms, one face"]
    versions = " ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "dlib-bin"))
    return Table(
        f"Embedding crops of 112 px, resizing included, batches of {BATCH}", columns, rows, [versions, machine()]
    )


def alternate(works: dict[str, Work], repeats: int) -> dict[str, tuple[float, float, float]]:
    """Seconds per face or picture: median, least, most; turn by turn, every second round in reverse."""
    for work, crops in works.values():
        work(crops)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats):
        for name in list(works)[:: 1 if turn % 2 == 0 else -1]:
            work, crops = works[name]
            start = time.perf_counter()
            work(crops)
            seconds[name].append((time.perf_counter() - start) / len(crops))
    return {name: (statistics.median(own), min(own), max(own)) for name, own in seconds.items()}


def bytes_table(sizes: dict[str, int]) -> Table:
    """Weights of models, and templates."""
    rows: list[list[Cell]] = [[name, size] for name, size in sizes.items()]
    rows += [["a template of 128 numbers", 512], ["a template as 256 signs", 32], ["dlib's template, float64", 1024]]
    return Table("Bytes", ["what", "bytes"], rows)


def detection_table(pictures: list[np.ndarray], repeats: int) -> Table:
    """Haar cascades, and dlib's detector on pictures twice as large, as face_recognition asks it."""
    finder = HaarDetector()
    works: dict[str, Callable[[list[np.ndarray]], list[Sequence]]] = {
        "Haar cascades (default)": lambda given: [finder.detect(picture) for picture in given]
    }
    try:
        dlib_finder = importlib.import_module("dlib").get_frontal_face_detector()
        works["dlib, frontal, enlarged twice"] = lambda given: [dlib_finder(picture, 1) for picture in given]
    except ImportError:
        pass
    seconds = alternate({name: (work, pictures) for name, work in works.items()}, repeats)
    rows: list[list[Cell]] = []
    for name, work in works.items():
        found = sum(len(faces) > 0 for faces in work(pictures))
        rows.append([name, 1e3 * seconds[name][0], f"{found} of {len(pictures)}"])
    side = statistics.median(max(picture.shape[:2]) for picture in pictures)
    return Table(f"Detection, pictures of {side:.0f} px", ["detector", "ms per picture", "with a face"], rows)


def version(name: str) -> str:
    """Of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def machine() -> str:
    """The processor and the threads."""
    return f"{processor()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
