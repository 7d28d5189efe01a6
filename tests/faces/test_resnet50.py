"""VGGFace2's ResNet-50: the published size and names, and the places of its strides, against a plain walk."""

import torch
from torch import Tensor
from torch.nn import functional

from tenfold.faces.resnet50 import ResNet50

BLOCKS = (3, 4, 6, 3)


def test_it_has_the_published_number_of_parameters() -> None:
    """25,557,032 with ImageNet's classifier, 2,048 x 1,000 and a bias."""
    assert sum(p.numel() for p in ResNet50().parameters()) == 25_557_032 - 2_049_000 == 23_508_032


def test_it_has_the_published_names() -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"conv1.weight", *(f"bn1.{n}" for n in norm)}
    for stage, blocks in enumerate(BLOCKS, 1):
        for block in range(blocks):
            place = f"layer{stage}.{block}"
            names |= {f"{place}.conv{n}.weight" for n in (1, 2, 3)}
            names |= {f"{place}.bn{n}.{part}" for n in (1, 2, 3) for part in norm}
        place = f"layer{stage}.0.downsample"
        names |= {f"{place}.0.weight", *(f"{place}.1.{n}" for n in norm)}
    assert set(ResNet50().state_dict()) == names


def test_it_walks_as_the_caffe_original() -> None:
    """Strides in the first 1 x 1 convolution, a pool that pads nothing and rounds up: written out from the weights."""
    torch.manual_seed(0)
    net = ResNet50().eval()
    w = net.state_dict()

    def unit(x: Tensor, conv: str, norm: str, stride: int = 1, padding: int = 0) -> Tensor:
        y = functional.conv2d(x, w[f"{conv}.weight"], stride=stride, padding=padding)
        mean, variance = w[f"{norm}.running_mean"], w[f"{norm}.running_var"]
        return functional.batch_norm(y, mean, variance, w[f"{norm}.weight"], w[f"{norm}.bias"], eps=1e-5)

    x = faces = torch.randn(1, 3, 100, 100)
    x = functional.max_pool2d(unit(x, "conv1", "bn1", 2, 3).relu(), 3, 2, ceil_mode=True)
    assert x.shape == (1, 64, 25, 25)  # 50 -> 24.5 -> 25
    for stage, blocks in enumerate(BLOCKS, 1):
        for block in range(blocks):
            place, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = unit(x, f"{place}.conv1", f"{place}.bn1", stride).relu()
            y = unit(y, f"{place}.conv2", f"{place}.bn2", padding=1).relu()
            y = unit(y, f"{place}.conv3", f"{place}.bn3")
            x = unit(x, f"{place}.downsample.0", f"{place}.downsample.1", stride) if block == 0 else x
            x = (x + y).relu()
    with torch.inference_mode():
        assert torch.allclose(net(faces), x.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_a_face_of_224_gives_maps_of_7_before_the_average() -> None:
    net, seen = ResNet50().eval(), []
    net.layer4.register_forward_hook(lambda _m, _i, y: seen.append(tuple(y.shape)))
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, 224, 224)).shape == (1, 2048)
    assert seen == [(1, 2048, 7, 7)]
