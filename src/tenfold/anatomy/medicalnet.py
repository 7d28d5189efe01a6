"""MedicalNet's 3D ResNet-50 and -101 (Chen et al. 2019, arXiv 1904.00625) up to global average pooling: 2048 features.

The paper's code takes its FID features from it, on images in [-1, 1]. Parameters are called as in the published files
`resnet_50.pth` and `resnet_101.pth`: {"state_dict": ...} with names behind "module."; shortcuts are of type B. Blocks
3 and 4 keep their resolution and dilate by 2 and 4.
"""

# N images · C channels · X Y Z voxels · D = 2048

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenfold.core.artifacts import load_into, read_state

__all__ = ["MedicalNet", "ResNet3D"]

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_WIDTHS, _STRIDES, _DILATIONS = (64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4)
_WIDENED = 4
_HEAD = ("conv_seg.", "fc.")  # in the files, not needed for features


class Bottleneck(nn.Module):
    """1^3, 3^3 and 1^3 convolution around a shortcut."""

    def __init__(self, ins: int, width: int, stride: int, dilation: int, shortcut: bool) -> None:
        super().__init__()
        outs = width * _WIDENED
        self.conv1, self.bn1 = nn.Conv3d(ins, width, 1, bias=False), nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3, self.bn3 = nn.Conv3d(width, outs, 1, bias=False), nn.BatchNorm3d(outs)
        self.downsample = (
            nn.Sequential(nn.Conv3d(ins, outs, 1, stride, bias=False), nn.BatchNorm3d(outs)) if shortcut else None
        )

    def forward(self, x_NCXYZ: Tensor) -> Tensor:
        """(N, C, X, Y, Z) to (N, 4 width, X', Y', Z')."""
        made = torch.relu(self.bn1(self.conv1(x_NCXYZ)))
        made = torch.relu(self.bn2(self.conv2(made)))
        made = self.bn3(self.conv3(made))
        return torch.relu(made + (x_NCXYZ if self.downsample is None else self.downsample(x_NCXYZ)))


class ResNet3D(nn.Module):
    """The network without its head.

    Args:
        depth: 50 or 101.
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(1, 64, 7, 2, padding=3, bias=False), nn.BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(3, 2, padding=1)
        ins = 64
        for number, (count, width) in enumerate(zip(_BLOCKS[depth], _WIDTHS, strict=True)):
            stride, dilation = _STRIDES[number], _DILATIONS[number]
            blocks = [Bottleneck(ins, width, stride, dilation, shortcut=True)]
            ins = width * _WIDENED
            blocks += [Bottleneck(ins, width, 1, dilation, shortcut=False) for _ in range(count - 1)]
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))

    def forward(self, x_N1XYZ: Tensor) -> Tensor:
        """Features (N, 2048) of volumes (N, 1, X, Y, Z)."""
        made = self.maxpool(torch.relu(self.bn1(self.conv1(x_N1XYZ))))
        for number in range(1, 5):
            made = self.get_submodule(f"layer{number}")(made)
        return made.mean((2, 3, 4))


class MedicalNet:
    """The extractor, from a file of weights.

    Raises:
        InputError: The file cannot be read without running code from it, or its names and shapes are not those of a
            ResNet-50 or -101.
    """

    def __init__(self, path: Path) -> None:
        state = {name: tensor for name, tensor in read_state(path).items() if not name.startswith(_HEAD)}
        depth = 101 if any(name.startswith("layer3.6.") for name in state) else 50
        self._network = ResNet3D(depth)
        for name, tensor in self._network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                state.setdefault(name, tensor)  # older files have none
        load_into(self._network, state, path)
        self._network.eval()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.name = f"MedicalNet ResNet-{depth} (weights {digest[:8]}, input -1 to 1)"

    @torch.inference_mode()
    def __call__(self, voxels_XYZ: NDArray[np.float32]) -> NDArray[np.float64]:
        """Features (2048,)."""
        made = self._network(torch.from_numpy(np.ascontiguousarray(voxels_XYZ))[None, None])
        return np.asarray(made[0].double().numpy())
