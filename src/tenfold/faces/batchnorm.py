"""Students that get to know the faces of the place where they work, without labels and without training."""

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tenfold.core.errors import InputError
from tenfold.faces.model import StudentNet, to_input

__all__ = ["adapt_batchnorm"]

_CHUNK = 256  # faces that pass through at once


def adapt_batchnorm(student: StudentNet, faces_NrrC: NDArray[np.uint8], share: float = 1.0) -> StudentNet:
    """A copy of a student, in evaluation mode, whose batch norms know the faces of the place where it works.

    An option of ours, after later work on faces of few pixels by authors of the paper (arXiv 2409.02049).

    Args:
        student: Stays as it is.
        faces_NrrC: Small faces as they come, RGB bytes, at least 2 and better some hundred.
        share: How far means and variances move from those of training (0) to those of these faces (1).

    Raises InputError for fewer faces, other arrays and a share out of range.
    """
    if len(faces_NrrC) < 2 or not 0 <= share <= 1:
        raise InputError(f"there are {len(faces_NrrC)} faces and share is {share}; give 2 faces or more, and 0 to 1")
    measured, adapted = _measure(student, faces_NrrC), copy.deepcopy(student)
    adapted.eval()
    for norm, (mean, variance) in zip(_norms(adapted), measured, strict=True):
        norm.running_mean.lerp_(mean, share)
        norm.running_var.lerp_(variance, share)
    return adapted


def _measure(student: StudentNet, faces_NrrC: NDArray[np.uint8]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance that each batch norm sees, layer behind layer, as means over chunks."""
    probe = copy.deepcopy(student).eval()
    for norm in _norms(probe):
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over chunks
        norm.train()
    device = next(probe.parameters()).device
    with torch.no_grad():
        for chunk in np.array_split(np.arange(len(faces_NrrC)), -(-len(faces_NrrC) // _CHUNK)):
            probe(to_input(faces_NrrC[chunk]).to(device))
    return [(norm.running_mean, norm.running_var) for norm in _norms(probe)]


def _norms(student: StudentNet) -> list[nn.BatchNorm2d]:
    return [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]
