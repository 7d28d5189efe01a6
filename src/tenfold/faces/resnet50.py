"""ResNet-50 as VGGFace2 published it: 2,048 numbers per face of 224 x 224 pixels.

He et al., "Deep Residual Learning for Image Recognition" (2016), Table 1, in the shape of the Caffe original: a
bottleneck that halves the side does so in its first 1 x 1 convolution, and the first pool rounds up and pads nothing.
Newer libraries put both elsewhere under the same names of weights, and would load such a file and answer wrongly.
Cao et al., "VGGFace2: A dataset for recognising faces across pose and age" (2018), trained it.
"""

# B batch · C channels · H, W height and width of feature maps · D = 2048 features

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ResNet50"]

_GROWTH = 4


class ResNet50(nn.Module):
    """Faces (B, 3, 224, 224) float32, BGR less the mean of the training faces, to pooled features (B, 2048), >= 0.

    23,508,032 parameters: what the published file holds, without its classifier `fc`.
    """

    dimension = 2048

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, blocks=3, stride=1)
        self.layer2 = _stage(256, 128, blocks=4, stride=2)
        self.layer3 = _stage(512, 256, blocks=6, stride=2)
        self.layer4 = _stage(1024, 512, blocks=3, stride=2)

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Features (B, 2048)."""
        x_BCHW = functional.relu(self.bn1(self.conv1(x_B3HW)), inplace=True)
        x_BCHW = functional.max_pool2d(x_BCHW, 3, stride=2, ceil_mode=True)
        return self.layer4(self.layer3(self.layer2(self.layer1(x_BCHW)))).mean((2, 3))


class _Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolution around a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = _GROWTH * width
        self.conv1 = nn.Conv2d(inputs, width, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
        else:
            self.downsample = nn.Sequential()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = functional.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        y_BCHW = functional.relu(self.bn2(self.conv2(y_BCHW)), inplace=True)
        return functional.relu(self.bn3(self.conv3(y_BCHW)) + self.downsample(x_BCHW), inplace=True)


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Module:
    first = _Bottleneck(inputs, width, stride)
    return nn.Sequential(first, *(_Bottleneck(_GROWTH * width, width, 1) for _ in range(blocks - 1)))
