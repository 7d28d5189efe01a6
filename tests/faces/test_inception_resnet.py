"""Inception-ResNet-v1: the published size, the published names, the shapes of the paper's figures."""

import torch
from torch.nn import functional

from tenfold.faces.inception_resnet import InceptionResnetV1


def test_it_has_the_published_number_of_parameters() -> None:
    """27,910,327 is what the file trained on VGGFace2 holds; its classifier is 512 x 8,631 and a bias."""
    count = sum(parameter.numel() for parameter in InceptionResnetV1().parameters())
    assert count == 27_910_327 - (512 * 8_631 + 8_631) == 23_482_624


def published_names() -> set[str]:
    """Of facenet-pytorch's files, written down block by block."""
    units = [f"conv2d_{place}" for place in ("1a", "2a", "2b", "3b", "4a", "4b")]
    joins = []
    for number in range(5):
        block = f"repeat_1.{number}"
        units += [f"{block}.branch0", *(f"{block}.branch1.{n}" for n in range(2))]
        units += [f"{block}.branch2.{n}" for n in range(3)]
        joins.append(block)
    for block in [*(f"repeat_2.{n}" for n in range(10)), *(f"repeat_3.{n}" for n in range(5)), "block8"]:
        units += [f"{block}.branch0", *(f"{block}.branch1.{n}" for n in range(3))]
        joins.append(block)
    units += ["mixed_6a.branch0", *(f"mixed_6a.branch1.{n}" for n in range(3))]
    for branch, length in enumerate((2, 2, 3)):
        units += [f"mixed_7a.branch{branch}.{n}" for n in range(length)]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {f"{unit}.{part}" for unit in units for part in ("conv.weight", *(f"bn.{n}" for n in norm))}
    names |= {f"{block}.conv2d.{part}" for block in joins for part in ("weight", "bias")}
    return names | {"last_linear.weight", *(f"last_bn.{n}" for n in norm)}


def test_it_has_the_published_names() -> None:
    assert set(InceptionResnetV1().state_dict()) == published_names()


def test_feature_maps_have_the_sides_of_the_paper_and_features_length_one() -> None:
    torch.manual_seed(0)
    net, seen = InceptionResnetV1().eval(), {}
    for name in ("repeat_1", "repeat_2", "repeat_3", "block8"):
        net.get_submodule(name).register_forward_hook(lambda _m, _i, y, name=name: seen.update({name: tuple(y.shape)}))
    with torch.inference_mode():
        features = net(torch.randn(2, 3, 160, 160))
    assert seen == {
        "repeat_1": (2, 256, 17, 17),
        "repeat_2": (2, 896, 8, 8),
        "repeat_3": (2, 1792, 3, 3),
        "block8": (2, 1792, 3, 3),
    }
    assert features.shape == (2, 512)
    assert torch.allclose(features.norm(dim=1), torch.ones(2))


def test_a_block_adds_a_fixed_share_of_its_branches_and_only_the_last_is_not_rectified() -> None:
    """The constants that weights cannot show: 0.17, 0.10, 0.20, and 1 without ReLU."""
    torch.manual_seed(0)
    net = InceptionResnetV1().eval()
    blocks = (("repeat_1.4", 256, 0.17), ("repeat_2.9", 896, 0.10), ("repeat_3.4", 1792, 0.20), ("block8", 1792, 1.0))
    for name, channels, share in blocks:
        block, x = net.get_submodule(name), torch.randn(1, channels, 5, 5)
        with torch.inference_mode():
            branches = [child(x) for part, child in block.named_children() if part.startswith("branch")]
            expected = x + share * functional.conv2d(torch.cat(branches, 1), block.conv2d.weight, block.conv2d.bias)
            expected = expected if name == "block8" else expected.clamp(min=0)
            assert torch.allclose(block(x), expected, atol=1e-6), name


def test_batch_norm_has_the_epsilon_of_the_files() -> None:
    norms = [m for m in InceptionResnetV1().modules() if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    assert len(norms) == 112
    assert {norm.eps for norm in norms} == {1e-3}
