"""torch's Sequential: read as what torch computes, and refused where that is not known."""

import jax
import numpy as np
import pytest

import lipjax
from lipjax.models import plain

torch = pytest.importorskip("torch")
nn = torch.nn


def settled(network):
    """In float64 and in evaluation, its batch norms away from where they start."""
    torch.manual_seed(0)
    network = network.double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return network.eval()


def compared(network, shape):
    """(largest difference, proof) of torch's outputs and ours for images (H, W, C)."""
    from lipjax.models.torch_reader import described

    x = np.random.default_rng(0).normal(size=(3, *shape))
    as_torch = torch.from_numpy(np.moveaxis(x, -1, 1) if len(shape) == 3 else x)
    with torch.no_grad():
        wanted = network(as_torch).numpy()
    wanted = np.moveaxis(wanted, 1, -1) if wanted.ndim == 4 else wanted
    layer, own = plain.read(described(network), shape)
    with jax.enable_x64(True):
        return float(np.abs(np.asarray(layer.evaluate(own, x)).reshape(wanted.shape) - wanted).max())


CONVOLUTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "padding": (2, 0), "stride": (2, 1), "bias": False},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2, "padding_mode": "circular"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect", "stride": 2},
    {"kernel_size": 4, "padding": "same"},
    {"kernel_size": 2, "padding": "valid", "groups": 4},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_a_convolution_is_torchs(options):
    assert compared(settled(nn.Sequential(nn.Conv2d(4, 8, **options))), (6, 7, 4)) < 1e-12


@pytest.mark.parametrize(
    "module",
    [
        *(nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.3), nn.ELU(0.7), nn.SELU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU()),
        *(nn.Mish(), nn.Sigmoid(), nn.Tanh(), nn.Softplus(2.0), nn.Softsign(), nn.Hardtanh(), nn.Hardsigmoid()),
        *(nn.Hardswish(), nn.Identity(), nn.Dropout(0.5), nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False)),
        *(nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1), nn.Flatten()),
        *(nn.AvgPool2d((3, 2), 2, 1, count_include_pad=False), nn.AdaptiveAvgPool2d(1)),
    ],
    ids=str,
)
def test_a_module_is_torchs(module):
    assert compared(settled(nn.Sequential(module)), (6, 7, 2)) < 1e-8  # torch's Softplus is x itself beyond 20


@pytest.fixture(scope="module")
def network():
    body = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6), nn.GELU(), nn.MaxPool2d(2))
    head = (nn.Flatten(), nn.Dropout(), nn.Linear(54, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 4))
    return settled(nn.Sequential(nn.Conv2d(2, 8, 3, stride=2, padding=1), nn.ReLU(), body, *head))


def test_a_whole_network_is_torchs_and_no_distance_grows_by_more(network):
    assert compared(network, (12, 12, 2)) < 1e-12
    bound = lipjax.bound(network, image_shape=(12, 12, 2)).lipschitz
    x = torch.rand(20, 2, 12, 12, dtype=torch.float64)
    jacobians = [torch.autograd.functional.jacobian(lambda y: network(y[None])[0], image).reshape(4, -1) for image in x]
    assert max(float(torch.linalg.matrix_norm(matrix, 2)) for matrix in jacobians) <= bound


def test_it_is_certified(network):
    from lipjax.models.torch_reader import described

    model, variables = plain.network(described(network), (12, 12, 2))
    images = np.random.default_rng(0).uniform(size=(5, 12, 12, 2))
    certificate = lipjax.certify(model, variables, images)
    with torch.no_grad():
        predicted = network(torch.from_numpy(np.moveaxis(images, -1, 1))).argmax(dim=1).numpy()
    np.testing.assert_array_equal(certificate.prediction, predicted)
    assert (certificate.radius > 0).all()


def test_a_module_that_stands_twice_is_run_and_counted_twice():
    twice, norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
    network = settled(nn.Sequential(twice, norm, nn.Sequential(nn.Tanh(), twice), norm, twice, nn.Flatten()))
    assert compared(network, (5, 4, 2)) < 1e-12
    dense = settled(nn.Sequential(nn.Linear(3, 3)))[0]
    once, thrice = (lipjax.bound(nn.Sequential(*[dense] * n), (3,)).lipschitz for n in (1, 3))
    assert thrice == pytest.approx(once**3)


def test_padding_that_was_changed_counts_as_torch_takes_it():
    for mode in ("zeros", "circular", "reflect"):
        conv = nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode=mode)
        conv.padding = (0, 1)
        assert compared(settled(nn.Sequential(conv)), (6, 7, 2)) < 1e-12


@pytest.mark.parametrize(
    "register", ["register_module_forward_hook", "register_module_forward_pre_hook"], ids=("after", "before")
)
def test_hooks_of_all_modules_are_refused(register):
    handle = getattr(nn.modules.module, register)(lambda *given: None)
    try:
        with pytest.raises(TypeError, match="has hooks"):
            lipjax.bound(nn.Sequential(nn.Linear(3, 3)), (3,))
    finally:
        handle.remove()


def test_methods_of_its_own_are_refused():
    conv = nn.Conv2d(2, 2, 1)
    conv._conv_forward = lambda x, weight, bias: 9 * nn.functional.conv2d(x, weight, bias)
    with pytest.raises(TypeError, match="a _conv_forward of its own"):
        lipjax.bound(nn.Sequential(conv), (4, 4, 2))


def test_a_class_of_torch_that_was_changed_is_refused(monkeypatch):
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: 9 * x)
    with pytest.raises(TypeError, match="a forward of its own"):
        lipjax.bound(nn.Sequential(nn.ReLU()), (3,))


class OwnConv(nn.Conv2d):
    pass


def hooked():
    module = nn.ReLU()
    module.register_forward_hook(lambda *given: None)
    return module


def half(module):
    return module.half().eval()


REFUSED = {
    "0: OwnConv is no module of torch.nn": lambda: nn.Sequential(OwnConv(2, 2, 1)),
    "0: has hooks or a forward of its own": lambda: nn.Sequential(hooked()),
    "0: Transformer must be one of": lambda: nn.Sequential(nn.Transformer(4, 1, 1, 1, 4)).eval(),
    r"0 \(BatchNorm2d\): is in training; call eval": lambda: nn.Sequential(nn.BatchNorm2d(2)),
    r"0.1 \(Dropout\): is in training": lambda: nn.Sequential(nn.Sequential(nn.ReLU(), nn.Dropout())),
    r"0 \(BatchNorm2d\): track_running_stats must be True": lambda: nn.Sequential(
        nn.BatchNorm2d(2, track_running_stats=False)
    ).eval(),
    r"0 \(MaxPool2d\): ceil_mode must be False": lambda: nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)),
    r"0 \(MaxPool2d\): dilation must be 1": lambda: nn.Sequential(nn.MaxPool2d(2, dilation=2)),
    r"0 \(AvgPool2d\): divisor_override must be None": lambda: nn.Sequential(nn.AvgPool2d(2, divisor_override=3)),
    r"0 \(AdaptiveAvgPool2d\): output_size must be 1, got 2": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(2)),
    r"0 \(Flatten\): start_dim and end_dim must be 1 and -1": lambda: nn.Sequential(nn.Flatten(2)),
    r"0 \(Hardtanh\): min_val and max_val": lambda: nn.Sequential(nn.Hardtanh(-2, 2)),
    r"0 \(Conv2d\): padding_mode must be": lambda: nn.Sequential(
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="replicate")
    ),
    r"0 \(Conv2d\): parameters must be float32 or float64, got float16": lambda: half(
        nn.Sequential(nn.Conv2d(2, 2, 1))
    ),
    r"1 \(Linear\): takes features, and gets images": lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.Linear(6, 2)),
    r"1 \(Conv2d\): takes images, and gets features": lambda: nn.Sequential(nn.Flatten(), nn.Conv2d(2, 2, 1)),
    "must be an nn.Sequential, got Conv2d": lambda: nn.Conv2d(2, 2, 1),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_known_is_refused_by_its_path(message):
    with pytest.raises((TypeError, ValueError), match=message):
        lipjax.bound(REFUSED[message](), image_shape=(6, 6, 2))


def test_weight_norm_is_refused_whichever_way_it_is_made():
    for wrap in (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm):
        with pytest.raises(TypeError, match="is no module of torch.nn|has hooks"):
            lipjax.bound(nn.Sequential(wrap(nn.Conv2d(2, 2, 1))).eval(), image_shape=(4, 4, 2))
