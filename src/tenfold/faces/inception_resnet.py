"""Inception-ResNet-v1 as published face teachers use it: 512 numbers per face of 160 x 160 pixels.

Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning" (2016), Figs. 10-16,
with the narrower stem and the embedding layer of FaceNet's open re-implementation. Names of weights and the constants
that no paper states (residual scales, batch norm's epsilon) are those of facenet-pytorch's files, so that such a file
loads as it is. The network is ours; the weights are the user's.

    stem 160 -> 17 x 17 x 256 | 5 x Block A | reduction A -> 8 x 8 x 896 | 10 x Block B | reduction B -> 3 x 3 x 1792
    | 5 x Block C | Block C without ReLU | global average | Linear 1792-512 | batch norm | unit length
"""

# B batch · C channels · H, W height and width of feature maps · D = 512 features

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["InceptionResnetV1"]

_EPSILON = 1e-3
_SCALE_A, _SCALE_B, _SCALE_C = 0.17, 0.10, 0.20


class InceptionResnetV1(nn.Module):
    """Faces (B, 3, 160, 160) float32, (RGB - 127.5) / 128, to features (B, 512) of unit length.

    23,482,624 parameters: what the published files hold, without their classifier `logits`.
    """

    dimension = 512

    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1a = _Unit(3, 32, 3, stride=2)
        self.conv2d_2a = _Unit(32, 32, 3)
        self.conv2d_2b = _Unit(32, 64, 3, padding=1)
        self.conv2d_3b = _Unit(64, 80, 1)
        self.conv2d_4a = _Unit(80, 192, 3)
        self.conv2d_4b = _Unit(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*(_block_a() for _ in range(5)))
        self.mixed_6a = _Reduction(
            _Unit(256, 384, 3, stride=2),
            nn.Sequential(_Unit(256, 192, 1), _Unit(192, 192, 3, padding=1), _Unit(192, 256, 3, stride=2)),
        )
        self.repeat_2 = nn.Sequential(*(_block_b() for _ in range(10)))
        self.mixed_7a = _Reduction(
            nn.Sequential(_Unit(896, 256, 1), _Unit(256, 384, 3, stride=2)),
            nn.Sequential(_Unit(896, 256, 1), _Unit(256, 256, 3, stride=2)),
            nn.Sequential(_Unit(896, 256, 1), _Unit(256, 256, 3, padding=1), _Unit(256, 256, 3, stride=2)),
        )
        self.repeat_3 = nn.Sequential(*(_block_c() for _ in range(5)))
        self.block8 = _block_c(scale=1.0, rectify=False)
        self.last_linear = nn.Linear(1792, self.dimension, bias=False)
        self.last_bn = nn.BatchNorm1d(self.dimension, eps=_EPSILON)

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Features (B, 512) of unit length."""
        x_BCHW = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x_B3HW)))
        x_BCHW = self.conv2d_3b(functional.max_pool2d(x_BCHW, 3, stride=2))
        x_BCHW = self.repeat_1(self.conv2d_4b(self.conv2d_4a(x_BCHW)))
        x_BCHW = self.repeat_2(self.mixed_6a(x_BCHW))
        x_BCHW = self.block8(self.repeat_3(self.mixed_7a(x_BCHW)))
        return functional.normalize(self.last_bn(self.last_linear(x_BCHW.mean((2, 3)))))


class _Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=_EPSILON)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x_BCHW)), inplace=True)


class _Residual(nn.Module):
    """Branches side by side, joined by a 1 x 1 convolution and added to the input by a small factor."""

    def __init__(self, channels: int, joined: int, scale: float, rectify: bool, *branches: nn.Module) -> None:
        super().__init__()
        self.scale, self.rectify = scale, rectify
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)
        self.count = len(branches)
        self.conv2d = nn.Conv2d(joined, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        branches = [self.get_submodule(f"branch{number}")(x_BCHW) for number in range(self.count)]
        y_BCHW = x_BCHW + self.scale * self.conv2d(torch.cat(branches, 1))
        return functional.relu(y_BCHW, inplace=True) if self.rectify else y_BCHW


class _Reduction(nn.Module):
    """Branches of stride 2 and a maximum pool side by side: half the side, more channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)
        self.count = len(branches)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        branches = [self.get_submodule(f"branch{number}")(x_BCHW) for number in range(self.count)]
        return torch.cat([*branches, functional.max_pool2d(x_BCHW, 3, stride=2)], 1)


def _block_a() -> nn.Module:
    """17 x 17 maps of 256 channels; Fig. 10."""
    return _Residual(
        256,
        96,
        _SCALE_A,
        True,
        _Unit(256, 32, 1),
        nn.Sequential(_Unit(256, 32, 1), _Unit(32, 32, 3, padding=1)),
        nn.Sequential(_Unit(256, 32, 1), _Unit(32, 32, 3, padding=1), _Unit(32, 32, 3, padding=1)),
    )


def _block_b() -> nn.Module:
    """8 x 8 maps of 896 channels; Fig. 11, the 7 x 7 kernel as a row and a column."""
    row, column = _Unit(128, 128, (1, 7), padding=(0, 3)), _Unit(128, 128, (7, 1), padding=(3, 0))
    branches = _Unit(896, 128, 1), nn.Sequential(_Unit(896, 128, 1), row, column)
    return _Residual(896, 256, _SCALE_B, True, *branches)


def _block_c(scale: float = _SCALE_C, rectify: bool = True) -> nn.Module:
    """3 x 3 maps of 1,792 channels; Fig. 13, the 3 x 3 kernel as a row and a column."""
    row, column = _Unit(192, 192, (1, 3), padding=(0, 1)), _Unit(192, 192, (3, 1), padding=(1, 0))
    branches = _Unit(1792, 192, 1), nn.Sequential(_Unit(1792, 192, 1), row, column)
    return _Residual(1792, 384, scale, rectify, *branches)
