"""dlib's face embedder as a teacher: a black box whose weights come with a package, and the peer of our benchmarks."""

# B batch · S side of a crop · C = 3 channels · D = 128 features

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.faces.inference import check_crops, file_hash, resize

__all__ = ["DlibTeacher"]

_WEIGHTS = "dlib_face_recognition_resnet_model_v1.dat"
_BATCH = 64
_HOW = "pip install dlib-bin face_recognition_models"
_LICENCE = "public domain by their author (CC0), who trained them on about 3 million faces of mixed provenance"


class DlibTeacher:
    """dlib's ResNet of 29 layers (`face_recognition_model_v1`), 128 features, 150 px.

    Its weights are those that the package `face_recognition_models` brings. They expect faces cut as dlib does, a
    little wider than our crops; it copes.

    Raises InputError where dlib or the weights are not installed.
    """

    dimension, size, licence = 128, 150, _LICENCE

    def __init__(self) -> None:
        try:
            import dlib  # type: ignore[import-not-found]  # noqa: PLC0415 - nobody else needs it
        except ImportError:
            raise InputError(f"teacher dlib: is not installed; run: {_HOW}") from None
        found = importlib.util.find_spec("face_recognition_models")  # importing it needs an old setuptools
        if found is None or not found.submodule_search_locations:
            raise InputError(f"teacher dlib: its weights are not installed; run: {_HOW}")
        path = Path(next(iter(found.submodule_search_locations))) / "models" / _WEIGHTS
        if not path.is_file():
            raise InputError(f"{path}: there are no weights; install face_recognition_models anew")
        self.identity = file_hash(path, {"size": self.size})
        self._network = dlib.face_recognition_model_v1(str(path))

    def embed(self, crops_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, 128), as `Teacher.embed`."""
        check_crops(crops_BSSC)
        faces = resize(crops_BSSC, self.size)
        features_BD = np.empty((len(faces), self.dimension), np.float32)
        for start in range(0, len(faces), _BATCH):
            part = [np.ascontiguousarray(face) for face in faces[start : start + _BATCH]]
            features_BD[start : start + _BATCH] = np.array(self._network.compute_face_descriptor(part))
        return features_BD
