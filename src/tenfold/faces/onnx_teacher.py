"""Teachers in ONNX files: the main road, for nearly every published network can be had as one."""

# B batch · S side of a crop · C = 3 channels · D features of the teacher

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.faces.inference import NOT_STATED, check_crops, file_hash, first_line, open_session
from tenfold.faces.teacher_input import TeacherInput, preset

__all__ = ["OnnxTeacher"]

_BATCH = 32


class OnnxTeacher:
    """A teacher in an ONNX file, run by onnxruntime on the CPU.

    Args:
        path: The file.
        config: What its input is to be, or the name of one of `PRESETS`.
        licence: What its publisher lets one do with it; by default the preset's.
        output: The name of the features among several outputs.

    Layout (channels first or last), type (float32 or uint8) and side of the input are read from the file and held
    against `config`; whether it really takes batches is tried out, for files are wrong about it.
    Raises InputError where they do not agree, or the file is no network for faces.
    """

    def __init__(
        self, path: Path | str, config: TeacherInput | str, licence: str | None = None, output: str | None = None
    ) -> None:
        self._path = Path(path)
        self._input, preset_licence = preset(config) if isinstance(config, str) else (config, NOT_STATED)
        self.size, self.licence = self._input.size, licence or preset_licence
        self._session = open_session(self._path)
        self._feed, self._is_last, self._is_bytes, self._batch = self._check_input()
        self._output = self._check_output(output)
        self.dimension = self._try_batches()
        self.identity = file_hash(self._path, {**asdict(self._input), "output": self._output})

    def _check_input(self) -> tuple[str, bool, bool, int | None]:
        """Name, whether channels are last, whether it takes bytes, and the batch it insists on."""
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise InputError(f"{self._path}: has {len(inputs)} inputs; a teacher has one, the faces")
        name, shape, kind = inputs[0].name, list(inputs[0].shape), inputs[0].type
        if len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise InputError(
                f"{self._path}: input {name} has shape {shape}, not (batch, 3, side, side) or channels last"
            )
        if kind not in ("tensor(float)", "tensor(uint8)"):
            raise InputError(f"{self._path}: input {name} is {kind}; export it with float32 or uint8")
        if kind == "tensor(uint8)" and (any(self._input.mean) or self._input.scale != 1):
            raise InputError(f"{self._path}: input {name} takes bytes; declare mean 0 0 0 and scale 1")
        is_last = shape[1] != 3
        for side in shape[1:3] if is_last else shape[2:]:
            if isinstance(side, int) and side != self.size:
                raise InputError(f"{self._path}: input {name} has side {side}, declared is {self.size}; declare {side}")
        return name, is_last, kind == "tensor(uint8)", shape[0] if isinstance(shape[0], int) else None

    def _check_output(self, wanted: str | None) -> str:
        names = [output.name for output in self._session.get_outputs()]
        if wanted is None and len(names) > 1:
            raise InputError(f"{self._path}: has outputs {', '.join(names)}; declare which one with `output`")
        if wanted is not None and wanted not in names:
            raise InputError(f"{self._path}: has no output {wanted}, but {', '.join(names)}")
        return wanted or str(names[0])

    def _try_batches(self) -> int:
        """D; sets the batch to 1 where two faces together do not give what each gives alone."""
        noise = np.random.default_rng(0).integers(0, 256, (2, self.size, self.size, 3), np.uint8)
        if self._batch is not None:
            return int(self._run(noise[:1]).shape[1])
        singly = np.concatenate([self._run(noise[:1]), self._run(noise[1:])])
        try:
            together = self._run(noise)
        except InputError:
            self._batch = 1
        else:
            tolerance = 1e-3 * max(float(np.abs(singly).max()), 1e-6)
            if together.shape != singly.shape or np.abs(together - singly).max() > tolerance:
                self._batch = 1
        return int(singly.shape[1])

    def _run(self, crops_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        input_BCSS = self._input.prepare(crops_BSSC)
        count, batch = len(input_BCSS), self._batch or len(input_BCSS)
        if count < batch:  # a file that insists on more
            input_BCSS = np.concatenate([input_BCSS, np.repeat(input_BCSS[-1:], batch - count, axis=0)])
        if self._is_last:
            input_BCSS = np.ascontiguousarray(input_BCSS.transpose(0, 2, 3, 1))
        if self._is_bytes:
            input_BCSS = input_BCSS.astype(np.uint8)
        try:
            features = self._session.run([self._output], {self._feed: input_BCSS})[0]
        except Exception as error:  # onnxruntime's own kinds
            raise InputError(f"{self._path}: does not run ({first_line(error)}); is it a whole network?") from None
        if features.ndim < 2 or len(features) != batch:
            raise InputError(f"{self._path}: output {self._output} has shape {features.shape} for {batch} faces")
        features_BD: NDArray[np.float32] = features.reshape(batch, -1)[:count].astype(np.float32)
        return features_BD

    def embed(self, crops_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, D) of crops uint8 (B, S, S, 3) RGB. Raises InputError for other arrays."""
        check_crops(crops_BSSC)
        step = self._batch or _BATCH
        parts = [self._run(crops_BSSC[start : start + step]) for start in range(0, len(crops_BSSC), step)]
        return np.concatenate(parts) if parts else np.empty((0, self.dimension), np.float32)
