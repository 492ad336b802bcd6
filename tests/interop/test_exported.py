"""Networks of torchlip and orthogonium, exported by themselves to plain layers, are those networks."""

import jax
import numpy as np
import pytest

from lipjax import prove
from lipjax.interop import read_network

_LAYERS = [
    {"weights": "0", "padding": 1},
    {"kind": "group_sort_2"},
    {"kind": "scaled_average_pool", "size": 2},
    {"weights": "3", "padding": 1, "padding_mode": "circular"},
    {"kind": "max_min"},
    {"kind": "flatten"},
    {"weights": "6"},
    {"kind": "group_sort_2"},
    {"weights": "8"},
]


def _logits(found, images):
    proven = prove(found.model, found.variables)
    with jax.enable_x64(True):
        return proven, np.asarray(proven.apply(found.variables, images)[1])


def train(torch, network, steps):
    """A little, on random images of random classes."""
    images, labels = torch.rand(16, 3, 8, 8), torch.arange(16) % 5
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert not steps or losses[-1] < losses[0]


@pytest.mark.parametrize("steps", [0, 20])
def test_torchlip_exported_by_itself(tmp_path, steps):
    torch, torchlip = pytest.importorskip("torch"), pytest.importorskip("deel.torchlip")
    torch.manual_seed(0)
    network = torchlip.Sequential(
        torchlip.SpectralConv2d(3, 4, 3, padding=1),
        torchlip.GroupSort2(),
        torchlip.ScaledAvgPool2d(2),
        torch.nn.Flatten(),
        torchlip.SpectralLinear(64, 8),
        torchlip.GroupSort2(),
        torchlip.FrobeniusLinear(8, 5),
    )
    network(torch.rand(2, 3, 8, 8))
    train(torch, network, steps)
    network.eval()
    exported = network.vanilla_export().eval().double()
    torch.save(exported.state_dict(), tmp_path / "net.pth")
    layers = [{"weights": "0", "padding": 1}, *_LAYERS[1:3], {"kind": "flatten"}]
    layers += [{"weights": "4"}, {"kind": "group_sort_2"}, {"weights": "6"}]
    found = read_network(tmp_path / "net.pth", "torchlip", layers=layers, image_shape=(8, 8, 3))
    images = np.random.default_rng(1).uniform(size=(3, 8, 8, 3))
    proven, logits = _logits(found, images)
    of_torch = exported(torch.from_numpy(images.transpose(0, 3, 1, 2))).detach().numpy()
    np.testing.assert_allclose(logits, of_torch, atol=1e-10)
    of_32 = network(torch.from_numpy(np.float32(images.transpose(0, 3, 1, 2)))).detach().numpy()
    assert np.abs(logits - of_32).max() < 1e-5
    assert 0.5 < proven.lipschitz_bound < 1.02


@pytest.mark.parametrize("steps", [0, 20])
def test_orthogonium_by_its_weights(tmp_path, steps):
    torch, layers = pytest.importorskip("torch"), pytest.importorskip("orthogonium.layers")
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        layers.AdaptiveOrthoConv2d(3, 4, kernel_size=3, padding=1, padding_mode="circular"),
        layers.MaxMin(),
        torch.nn.Flatten(),
        layers.OrthoLinear(256, 5),
    )
    train(torch, network, steps)
    network.eval()
    images = np.random.default_rng(1).uniform(size=(3, 8, 8, 3))
    of_torch = network(torch.from_numpy(np.float32(images.transpose(0, 3, 1, 2)))).detach().numpy()
    state = {f"{i}.{end}": getattr(network[i], end).detach() for i in (0, 3) for end in ("weight", "bias")}
    torch.save(state, tmp_path / "net.pth")
    described = [{"weights": "0", "padding": 1, "padding_mode": "circular"}, {"kind": "max_min"}, {"kind": "flatten"}]
    described.append({"weights": "3"})
    found = read_network(tmp_path / "net.pth", "orthogonium", layers=described, image_shape=(8, 8, 3))
    proven, logits = _logits(found, images)
    assert np.abs(logits - of_torch).max() < 1e-5
    assert 0.99 < proven.lipschitz_bound < 1.02


def test_what_does_not_fit_is_named(rng, tmp_path):
    state = {
        "0.weight": rng.normal(size=(4, 3, 3, 3)),
        "0.bias": rng.normal(size=4),
        "2.weight": rng.normal(size=(5, 64)),
    }
    np.savez(tmp_path / "net.npz", **state)
    layers = [{"weights": "0", "stride": 2, "padding": 1}, {"kind": "flatten"}, {"weights": "2"}]

    def read(layers=layers, like="torchlip", shape=(8, 8, 3)):
        return read_network(tmp_path / "net.npz", like, layers=layers, image_shape=shape)

    assert read().model.num_outputs() == 5
    for wrong, message in {
        "torchlip: layers is in no state dict": {"layers": None},
        "not understood: '2.weight'": {"layers": layers[:2]},
        "'9.weight' is missing": {"layers": [{"weights": "9"}]},
        "torchlip: layer 2 .dense.: kernel must have shape": {"shape": (6, 6, 3)},
        "torchlip: layer 1: kind must be one of": {"layers": [layers[0], {"kind": "pickle"}, *layers[2:]]},
        "torchlip: size=2.5: must be an integer": {"layers": [{"kind": "scaled_average_pool", "size": 2.5}, *layers]},
    }.items():
        with pytest.raises(ValueError, match=wrong):
            read(**message)
