"""A student as one ONNX file that is of use alone: faces as bytes in, vectors of length 1 out.

    session = onnxruntime.InferenceSession("student.onnx")
    vectors_Nd = session.run(None, {"faces": crops_NrrC})[0]

The input `faces` is uint8 (N, r, r, 3), RGB, aligned crops brought to r pixels; N is free. The output `vectors` is
float32 (N, d). Scaling of bytes and of vectors are part of the graph. The file's metadata carry `model_id`, `space`,
`size`, `dimension`, `licence`, `precision`, and the calibrated `threshold` as JSON where the folder has one.

The int8 file keeps the student's id: it stands for the same model, rounded. How far its vectors turned is measured.
"""

# N faces · r side of a face · C = 3 channels · d student's dimension

import json
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from tenfold.core.errors import InputError
from tenfold.core.files import replace_file
from tenfold.faces.inference import check_crops, fold, model_folder, resize
from tenfold.faces.model import StudentNet, load_student, to_input
from tenfold.faces.recognition import FORMAT, describe_student, load_onnx, stored_threshold
from tenfold.faces.validation import verification_auc

__all__ = ["Quantisation", "export_int8", "export_onnx"]

_OPSET, _IR = 17, 8  # onnxruntime 1.13 of 2022 reads these
_TOLERANCE = 1e-4
_MOST_CALIBRATING, _MOST_CHECKED = 512, 2000
_INPUT = "uint8 (N, size, size, 3) RGB"


@dataclass(frozen=True)
class Quantisation:
    """What int8 costs and saves.

    Attributes:
        weights_bytes: All stored numbers of the int8 file.
        file_bytes: The int8 file.
        cosine_mean: Mean cosine of int8 vectors with those of float32, over faces that calibrated nothing.
        cosine_least: The least of them.
        auc_float: Area under the ROC curve over all pairs of these faces, float32; None without labels.
        auc_int8: The same of int8.
        checked: How many faces that were; those that calibrated where there were no others.
    """

    weights_bytes: int
    file_bytes: int
    cosine_mean: float
    cosine_least: float
    auc_float: float | None
    auc_int8: float | None
    checked: int


# --- float32 ---------------------------------------------------------------------------------------------------------


def export_onnx(folder: Path | str, out: Path | str) -> None:
    """Write a student's folder, or the Hub's, as an ONNX file of float32.

    The file is held against torch on noise before it gets its name; their vectors agree to 1e-4.
    Raises InputError where the folder is no student, or `out` cannot be written.
    """
    place, out = model_folder(folder), _target(out)
    net, config = load_student(place)
    facts = describe_student(place, net, config)
    threshold = stored_threshold(place)
    if threshold is not None:
        facts["threshold"] = json.dumps(threshold.to_json())
    with _writing(out) as partial:
        _write(net, facts | {"precision": "float32"}, partial)
        _compare(net, facts["size"], partial)


def _target(out: Path | str) -> Path:
    if Path(out).suffix != ".onnx":
        raise InputError(f"{out}: is to be an ONNX file; give a name that ends in .onnx")
    return Path(out)


@contextmanager
def _writing(out: Path) -> Iterator[Path]:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(out) as partial:
            yield partial
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); choose another place") from None


def _write(net: StudentNet, facts: Mapping[str, Any], path: Path) -> None:
    """The graph node by node: plain enough to be written by hand, and then it has no more in it than is needed."""
    import onnx  # noqa: PLC0415 - only exports need it

    make, kinds, size = onnx.helper.make_tensor_value_info, onnx.TensorProto, facts["size"]
    nodes, weights = _graph(net, size)
    graph = onnx.helper.make_graph(
        nodes,
        "student",
        [make("faces", kinds.UINT8, ["count", size, size, 3])],
        [make("vectors", kinds.FLOAT, ["count", facts["dimension"]])],
        [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    opset = [onnx.helper.make_opsetid("", _OPSET)]
    model = onnx.helper.make_model(graph, producer_name="tenfold", opset_imports=opset, ir_version=_IR)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    _describe(path, {"format": FORMAT, "input": _INPUT} | dict(facts))


def _graph(net: StudentNet, size: int) -> tuple[list[Any], dict[str, NDArray[np.float32]]]:
    """Nodes in their order and weights by name: bytes to -1..1, what `StudentNet.forward` does, length 1."""
    import onnx  # noqa: PLC0415

    folded, node = fold(net), onnx.helper.make_node
    weights = {"step": np.array(1 / 127.5, np.float32), "one": np.array(1, np.float32)}
    nodes = [
        node("Cast", ["faces"], ["numbers"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["numbers", "step"], ["scaled"]),
        node("Sub", ["scaled", "one"], ["centred"]),
        node("Transpose", ["centred"], ["input"], perm=[0, 3, 1, 2]),
    ]
    x, side = "input", size
    for number, stage in enumerate(folded.stages):
        if number > 0 and side > 1:
            nodes.append(node("MaxPool", [x], [x := f"pool{number}"], kernel_shape=[2, 2], strides=[2, 2]))
            side //= 2
        for place, conv in enumerate(layer for layer in stage if isinstance(layer, nn.Conv2d)):
            name, stride = f"stage{number}.conv{place}", conv.stride[0]
            weights |= {f"{name}.weight": conv.weight.numpy(), f"{name}.bias": conv.bias.numpy()}
            inputs, shape = [x, f"{name}.weight", f"{name}.bias"], {"kernel_shape": [3, 3], "pads": [1] * 4}
            nodes.append(node("Conv", inputs, [name], strides=[stride, stride], **shape))
            nodes.append(node("Relu", [name], [x := f"{name}.relu"]))
            side = -(-side // stride)
    weights |= {"head.weight": folded.head.weight.numpy(), "head.bias": folded.head.bias.numpy()}
    nodes += [
        node("GlobalAveragePool", [x], ["mean"]),
        node("Flatten", ["mean"], ["pooled"]),
        node("Gemm", ["pooled", "head.weight", "head.bias"], ["embedding"], transB=1),
        node("LpNormalization", ["embedding"], ["vectors"], axis=1, p=2),
    ]
    return nodes, weights


def _describe(path: Path, facts: Mapping[str, Any]) -> None:
    import onnx  # noqa: PLC0415

    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {name: str(value) for name, value in facts.items()})
    path.write_bytes(model.SerializeToString())


def _compare(net: StudentNet, size: int, path: Path) -> None:
    faces = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    with torch.inference_mode():
        expected = functional.normalize(net(to_input(faces))).numpy()
    difference = float(np.abs(load_onnx(path).embed_crops(faces) - expected).max())
    if not difference <= _TOLERANCE:
        raise InputError(f"{path}: the exported network differs by {difference:.1e}; are the weights finite?")


# --- int8 ------------------------------------------------------------------------------------------------------------


def export_int8(
    folder: Path | str, crops_NSSC: NDArray[np.uint8], out: Path | str, labels_N: NDArray[np.int64] | None = None
) -> Quantisation:
    """Write a student as an ONNX file of int8 weights and activations, and measure what that changes.

    Args:
        folder: The student's folder, or a Hub id.
        crops_NSSC: uint8 (N, S, S, 3) RGB, faces such as it will see, of any side; some hundreds. Up to 512, spread
            evenly, set the ranges of activations; the others check.
        out: The file.
        labels_N: Who is on the crops, int64 (N,); the area under the ROC curve is then measured too.

    Weights have 7 bits: older x86 processors add pairs of products in 16 bits, where 8 would overflow.
    Raises InputError where the folder is no student, there are no crops, or `out` cannot be written.
    """
    check_crops(crops_NSSC)
    if len(crops_NSSC) == 0 or (labels_N is not None and len(labels_N) != len(crops_NSSC)):
        raise InputError(f"{len(crops_NSSC)} crops: give some hundreds to set the ranges, and as many labels or none")
    out = _target(out)
    calibrating, checked = _split(len(crops_NSSC))
    with tempfile.TemporaryDirectory() as scratch, _writing(out) as partial:
        whole = Path(scratch) / "float32.onnx"
        export_onnx(folder, whole)
        model = load_onnx(whole)
        _quantise(whole, resize(crops_NSSC[calibrating], model.size), partial)
        float_Nd, int8_Nd = (load_onnx(path).embed_crops(crops_NSSC[checked]) for path in (whole, partial))
        labels = None if labels_N is None else labels_N[checked]
        return _measure(partial, float_Nd, int8_Nd, labels)


def _split(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that calibrate, at most half of all, and rows that check; the same where there is one only."""
    calibrating = np.unique(np.linspace(0, count - 1, min(_MOST_CALIBRATING, (count + 1) // 2)).astype(np.int64))
    others = np.setdiff1d(np.arange(count), calibrating)
    if len(others) == 0:
        return calibrating, calibrating
    return calibrating, others[np.unique(np.linspace(0, len(others) - 1, min(_MOST_CHECKED, len(others))).astype(int))]


@contextmanager
def _quiet() -> Iterator[None]:
    """The library's advice on its own steps goes to the root logger; users of ours cannot follow it."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def _quantise(whole: Path, faces_NrrC: NDArray[np.uint8], path: Path) -> None:
    from onnxruntime import quantization  # noqa: PLC0415 - only exports need it
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    class Faces(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(np.array_split(faces_NrrC, -(-len(faces_NrrC) // 64)))

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"faces": batch}

    prepared = whole.with_name("prepared.onnx")
    facts = _metadata(whole)
    with _quiet():
        quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(path),
            Faces(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=["Conv", "Gemm", "MaxPool"],
        )
    _describe(path, facts | {"precision": "int8"})


def _metadata(path: Path) -> dict[str, str]:
    import onnx  # noqa: PLC0415

    return {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}


def _measure(
    path: Path, float_Nd: NDArray[np.float32], int8_Nd: NDArray[np.float32], labels_N: NDArray[np.int64] | None
) -> Quantisation:
    import onnx  # noqa: PLC0415

    model = onnx.load(str(path))
    weights = [onnx.numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer]
    cosine_N = (float_Nd * int8_Nd).sum(1)
    aucs = [None, None] if labels_N is None else [_auc(vectors, labels_N) for vectors in (float_Nd, int8_Nd)]
    return Quantisation(
        weights_bytes=sum(weights),
        file_bytes=path.stat().st_size,
        cosine_mean=float(cosine_N.mean()),
        cosine_least=float(cosine_N.min()),
        auc_float=aucs[0],
        auc_int8=aucs[1],
        checked=len(cosine_N),
    )


def _auc(vectors_Nd: NDArray[np.float32], labels_N: NDArray[np.int64]) -> float | None:
    """Over all pairs; None where they are all of one person, or all of different ones."""
    auc = verification_auc(vectors_Nd, labels_N)
    return auc if math.isfinite(auc) else None
