"""Plain descriptions: what they compute, what is proven of it, what is refused; files, and torch's Sequential."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import lipjax
from lipjax.certificates import certify_linear
from lipjax.export import interpreter
from lipjax.layers import Affine, PlainConv
from lipjax.models import plain
from lipjax.models.plain_kinds import KINDS
from lipjax.ops.curves import plain_rays
from lipjax.ops.frequency import transforms


def described(rng, dtype=np.float64):
    """A residual network of 6×6 pixels with every usual thing in it."""

    def draw(*shape, scale=0.4):
        return (scale * rng.normal(size=shape)).astype(dtype)

    branch = [
        {"kind": "conv", "kernel": draw(3, 3, 4, 4), "padding": 1},
        {"kind": "affine", "scale": draw(4, scale=1.0), "shift": draw(4)},
        {"kind": "activation", "name": "silu"},
        {"kind": "conv", "kernel": draw(3, 3, 2, 4), "padding": 2, "dilation": 2, "groups": 2, "bias": draw(4)},
    ]
    return [
        {"kind": "affine", "scale": 2.0, "shift": -1.0},
        {"kind": "conv", "kernel": draw(3, 3, 2, 4), "bias": draw(4), "padding": 1, "padding_mode": "reflect"},
        {"kind": "activation", "name": "leaky_relu", "slope": 0.2},
        {"kind": "sum", "branches": [[], branch]},
        {"kind": "max_pool", "size": 3, "stride": 2, "padding": 1},
        {"kind": "flatten", "order": "chw"},
        {"kind": "dense", "kernel": draw(36, 5), "bias": draw(5)},
    ]


def by_numpy(description, x):
    """What the first and last layers, and sums, say, in numpy; the convolutions tap by tap."""
    for item in description:
        kind = item["kind"]
        if kind == "affine":
            x = x * item["scale"] + item["shift"]
        elif kind == "conv":
            p, d, groups = item.get("padding", 0), item.get("dilation", 1), item.get("groups", 1)
            x = np.pad(x, ((p, p), (p, p), (0, 0)), mode=item.get("padding_mode", "constant"))
            kernel, inputs = item["kernel"], np.split(x, groups, axis=-1)
            side = len(x) - d * (len(kernel) - 1)
            parts = []
            for part, taps in zip(inputs, np.split(kernel, groups, axis=-1), strict=True):
                windows = [
                    part[d * a : d * a + side, d * b : d * b + side] @ taps[a, b] for a in range(3) for b in range(3)
                ]
                parts.append(sum(windows))
            x = np.concatenate(parts, axis=-1) + item.get("bias", 0)
        elif kind == "activation":
            x = np.maximum(x, item["slope"] * x) if item["name"] == "leaky_relu" else x / (1 + np.exp(-x))
        elif kind == "sum":
            x = sum(by_numpy(branch, x) for branch in item["branches"])
        elif kind == "max_pool":
            padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
            x = np.stack([[padded[i : i + 3, j : j + 3].max(axis=(0, 1)) for j in (0, 2, 4)] for i in (0, 2, 4)])
        elif kind == "flatten":
            x = x.transpose(2, 0, 1).ravel()
        else:
            x = x @ item["kernel"] + item["bias"]
    return x


@pytest.fixture(scope="module")
def network():
    description = described(np.random.default_rng(3))
    return description, *plain.network(description, (6, 6, 2))


def test_a_description_is_what_numpy_makes_of_it(network, float64, rng):
    description, model, variables = network
    x = rng.uniform(size=(3, 6, 6, 2))
    wanted = [by_numpy(description, image) for image in x]
    np.testing.assert_allclose(model.apply(variables, x), wanted, atol=1e-12)


def test_no_distance_grows_by_more_than_the_bound(network, float64, rng):
    description, model, variables = network
    proof = lipjax.bound(description, image_shape=(6, 6, 2))
    assert [name for name, _ in proof.parts] == ["0", "1", "2", "3", "4", "5", "6"]
    layer, own = plain.read(description, (6, 6, 2))
    x = rng.normal(size=(40, 6, 6, 2))
    jacobians = jax.jit(jax.vmap(jax.jacobian(lambda image: layer.evaluate(own, image[None])[0])))(x)
    norms = np.linalg.norm(np.asarray(jacobians).reshape(40, 5, -1), 2, axis=(1, 2))
    assert norms.max() <= proof.lipschitz
    assert lipjax.prove(model, variables).lipschitz_bound * proof.parts[-1][1].lipschitz >= proof.lipschitz * (1 - 1e-9)


def test_a_network_is_certified_and_its_certificates_hold(network, rng):
    description, model, variables = network
    images = rng.uniform(size=(20, 6, 6, 2))
    certificate = lipjax.certify(model, variables, images)
    assert certificate.protocol == "proof"
    assert (certificate.radius > 0).all()
    head, proven = description[-1], lipjax.prove(model, variables)
    logits = np.array([by_numpy(description, image) for image in images])
    for row, label, radius in zip(logits, certificate.prediction, certificate.radius, strict=True):
        assert label == row.argmax()
        distances = [
            (row[label] - row[i]) / np.linalg.norm(head["kernel"][:, label] - head["kernel"][:, i])
            for i in range(5)
            if i != label
        ]
        assert radius == pytest.approx(min(distances) / proven.lipschitz_bound, rel=1e-6)
        assert radius < min(distances) / proven.lipschitz_bound
    attacked = proven.attack(images, certificate.prediction, certificate.radius)
    assert (attacked.margins > 0).all()


def test_a_linear_head_is_certified_as_it_is_and_as_slowly_checked(rng):
    """Rows of very different lengths, equal ones and zero; the distance to each hyperplane by itself."""
    features, weight, bias = rng.normal(size=(60, 5)), rng.normal(size=(6, 5)), rng.normal(size=6)
    weight[1] *= 1e3
    weight[2] *= 1e-3
    weight[3] = weight[4]
    weight[5] = 0
    logits = features @ weight.T + bias
    certificate = certify_linear(features, weight, bias, logits.argmax(axis=1))
    for row, label, radius, upper in zip(
        logits, logits.argmax(axis=1), certificate.radius, certificate.upper, strict=True
    ):
        gaps = np.linalg.norm(weight[label] - weight, axis=1)
        exact = min((row[label] - row[i]) / gaps[i] for i in range(6) if gaps[i])
        assert exact * (1 - 1e-6) <= radius <= exact <= upper <= exact * (1 + 1e-6)
    wrong = certify_linear(features, weight, bias, logits.argmin(axis=1))
    assert (wrong.radius == 0).all()
    np.testing.assert_array_equal(wrong.prediction, logits.argmax(axis=1))
    for scale in (2.0**-300, 2.0**300):  # of all logits alike: no distance changes
        scaled = certify_linear(features, weight * scale, bias * scale, logits.argmax(axis=1))
        np.testing.assert_array_equal(scaled.radius, certificate.radius)
    with_slack = certify_linear(features, weight, bias, logits.argmax(axis=1), slack=0.01)
    assert (with_slack.radius < certificate.radius).all()


def test_batch_normalisation_is_part_of_the_convolution_before_it(rng):
    """One channel is amplified, another nearly dead: far below the product of both bounds."""
    kernel = rng.normal(size=(3, 3, 2, 3))
    kernel[..., 1] *= 1e-3
    scale = np.array([1.0, 500.0, -2.0])
    items = [{"kind": "conv", "kernel": kernel, "padding": 1}, {"kind": "affine", "scale": scale, "shift": 0.0}]
    proof = lipjax.bound(items, image_shape=(5, 5, 2))
    assert [name for name, _ in proof.parts] == ["0"]
    once = lipjax.bound([{"kind": "conv", "kernel": kernel * scale, "padding": 1}], image_shape=(5, 5, 2))
    assert proof.lipschitz == pytest.approx(once.lipschitz, rel=1e-9)
    layer, _ = plain.read([*items, {"kind": "affine", "scale": 1.0, "shift": 0.0}], (5, 5, 2))
    assert [type(inner) for _, inner in layer.layers] == [PlainConv, Affine]


def test_a_file_is_what_was_written(network, tmp_path):
    description, _, _ = network
    plain.save(tmp_path / "network.npz", description, (6, 6, 2))
    read, shape = plain.load(tmp_path / "network.npz")
    assert shape == (6, 6, 2)
    np.testing.assert_array_equal(read[3]["branches"][1][0]["kernel"], description[3]["branches"][1][0]["kernel"])
    with np.load(tmp_path / "network.npz") as file:
        assert {"1/kernel", "3/branches/1/0/kernel", "description"} <= set(file)
    whole = lipjax.bound(description, image_shape=(6, 6, 2)).lipschitz
    assert (
        lipjax.bound(tmp_path / "network.npz").lipschitz
        == whole
        == lipjax.bound(str(tmp_path / "network.npz")).lipschitz
    )
    with pytest.raises(ValueError, match=r"image_shape=\(5, 5, 2\) must be \(6, 6, 2\)"):
        lipjax.bound(tmp_path / "network.npz", image_shape=(5, 5, 2))


def test_files_that_are_not_whole_are_refused(network, tmp_path):
    description, _, _ = network
    path = tmp_path / "network.npz"
    plain.save(path, description, (6, 6, 2))
    with np.load(path) as file:
        arrays = dict(file)

    def refused(message, **changed):
        kept = {name: array for name, array in {**arrays, **changed}.items() if array is not None}
        np.savez(path, **kept)
        with pytest.raises(ValueError, match=message):
            lipjax.bound(path)

    refused("the array 1/kernel is missing", **{"1/kernel": None})
    moved = json.loads(str(arrays["description"]))
    moved["layers"][0]["padding_mode"] = "1/kernel"
    refused("0/padding_mode names the array 1/kernel, which belongs elsewhere", description=json.dumps(moved))
    refused("the array 9/kernel belongs to no layer", **{"9/kernel": np.zeros(2)})
    refused("'description' must say format", description=np.array("{}"))
    refused("'description' must say format", description=None)
    other = str(arrays["description"]).replace("network 1", "network 2")
    refused("format must be 'lipjax plain network 1', got 'lipjax plain network 2'", description=np.array(other))
    refused(r"layer 1 \(conv\): kernel must have shape \(any, any, 2, any\)", **{"1/kernel": np.zeros((3, 3, 3, 4))})
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"must be an \.npz file of a plain network"):
        lipjax.bound(path)
    with pytest.raises(ValueError, match="missing.npz: must be an .npz file"):
        lipjax.bound(tmp_path / "missing.npz")


def test_the_python_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "plain.md"
    sources = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile("\n".join(sources), "of_the_page", "exec"), {})
    assert capsys.readouterr().out.count("one after the other") >= 2


def test_the_page_names_every_kind():
    page = (Path(__file__).parents[2] / "docs" / "plain.md").read_text(encoding="utf-8")
    table = "".join(line for line in page.splitlines() if line.startswith("| `"))
    assert not [kind for kind in (*KINDS, "sum", "concatenate", "split") if f"`{kind}`" not in table]


FREQUENCIES = {"grid": [4, 4], "real": np.stack([2 * np.eye(2)] * 12), "imaginary": np.zeros((12, 2, 2))}
FREQUENCIES |= dict(zip(("down", "across"), transforms((2, 2), (4, 4)), strict=True))
WRONG = [2 * matrix for matrix in transforms((6, 6), (8, 8))]
CONV, DENSE = {"kind": "conv", "kernel": np.ones((3, 3, 2, 4))}, {"kind": "dense", "kernel": np.ones((72, 3))}
RAYS = plain_rays(np.ones((1, 1, 1)) * [[[1, 1], [0, 0], [1, -1]]])
REFUSED = {
    "kind must be one of": [{"kind": "attention"}],
    "layer 0: must be a dict with a 'kind', got int": [3],
    r"layer 1 \(dense\): kernel is missing": [{"kind": "flatten"}, {"kind": "dense"}],
    r"layer 0 \(conv\): 'pading' is no key of it; allowed: kernel, bias": [{**CONV, "pading": 1}],
    r"layer 0 \(conv\): kernel must have shape \(any, any, 2, any\), got \(3, 3, 3, 4\)": [
        {**CONV, "kernel": np.ones((3, 3, 3, 4))}
    ],
    r"layer 0 \(conv\): bias must have shape \(4,\), got \(1,\)": [{**CONV, "bias": np.ones(1)}],
    r"kernel must be an array of float32 or float64, got float16": [{**CONV, "kernel": np.ones((3, 3, 2, 4), "f2")}],
    "kernel has entries that are not finite": [{**CONV, "kernel": np.full((3, 3, 2, 4), np.nan)}],
    "groups must be an integer >= 1 that divides the 2 channels, got 3": [{**CONV, "groups": 3}],
    r"layer 0 \(conv\): PlainConv: stride must be": [{**CONV, "stride": 0}],
    r"layer 0 \(conv\): PlainConv: padding_mode must be one of": [{**CONV, "padding_mode": "replicate"}],
    r"layer 0 \(conv\): kernel: 3 taps, 4 apart, exceed 6 pixels": [{**CONV, "dilation": 4}],
    r"layer 0 \(dense\): its input must be features \(D,\), got \(6, 6, 2\); flatten before it": [DENSE],
    r"layer 1 \(conv\): its input must be images \(H, W, C\), got \(72,\)": [{"kind": "flatten"}, CONV],
    r"layer 1 \(dense\): kernel must have shape \(72, any\)": [
        {"kind": "flatten"},
        {**DENSE, "kernel": np.ones((2, 3))},
    ],
    r"layer 0 \(affine\): scale must have shape \(2,\), got \(3,\)": [
        {"kind": "affine", "scale": np.ones(3), "shift": 0.0}
    ],
    "name must be one of": [{"kind": "activation", "name": "softmax"}],
    "slope is no option of activation 'relu'": [{"kind": "activation", "name": "relu", "slope": 0.1}],
    "Flatten: order must be one of": [{"kind": "flatten", "order": "whc"}],
    "pairing must be 'halves' or 'neighbours', got 'all'": [{"kind": "max_min", "pairing": "all"}],
    r"layer 0 \(max_pool\): WindowMax: size must be": [{"kind": "max_pool", "size": 0}],
    r"layer 0 \(sum\): branches must be a list of lists": [{"kind": "sum", "branches": []}],
    "layer 0/branches/1: a branch must be a list of dicts, got dict": [{"kind": "sum", "branches": [[], {}]}],
    r"layer 0/branches/1/0 \(conv\): bias must have": [
        {"kind": "sum", "branches": [[], [{**CONV, "bias": np.ones(1)}]]}
    ],
    "the branches of a sum must give one shape": [{"kind": "sum", "branches": [[], [CONV]]}],
    r"low must be at most high, got \[1.0, 1.0\] and \[-1.0, -1.0\]": [
        {"kind": "activation", "name": "n", "low": 1.0, "high": -1.0}
    ],
    r"angles must lie in \[0, 6.2832\], got 0.0000 to 9.0000": [
        {"kind": "householder2", "angles": np.array([[9.0], [1.0], [0.0]])}
    ],
    r"angles must lie in \[0, 6.2832\], got -2.0000": [
        {"kind": "householder2", "angles": np.array([[1.0], [-2.0], [0.0]])}
    ],
    r"angle must lie in \[0, 3.1416\], got 4.0000 to 4.0000": [{"kind": "cone_distance", "angle": np.array([4.0])}],
    r"uy must be as the vertices": [{"kind": "polyline_distance", **RAYS, "uy": RAYS["uy"] + 1e-7}],
    r"from_y must be as the vertices": [
        {"kind": "polyline_distance", **RAYS, "from_y": np.where(RAYS["from_y"] == 0, -4e-15, RAYS["from_y"])}
    ],
    r"left_from must be as the vertices": [
        {
            "kind": "polyline_distance",
            **RAYS,
            "left_from": [9.0],
        }
    ],
    r"layer 0 \(frequency_conv\): down must be the Fourier matrix": [
        {
            **{"kind": "frequency_conv", "grid": [8, 8], "down": WRONG[0], "across": WRONG[1]},
            **{"real": np.ones((40, 2, 2)), "imaginary": np.ones((40, 2, 2))},
        }
    ],
    r"start and stop must be integers": [{"kind": "slice_channels", "start": 1, "stop": 3}],
    r"channels must be 1 numbers of sum 2": [{"kind": "split", "branches": [[]], "channels": [3]}],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused_by_its_place(message):
    with pytest.raises(ValueError, match=message):
        plain.read(REFUSED[message], (6, 6, 2))


def test_a_network_must_end_in_a_dense_layer():
    with pytest.raises(
        ValueError, match="the last layer must be of kind 'dense', which becomes the head, got 'flatten'"
    ):
        plain.network([CONV, {"kind": "flatten"}], (6, 6, 2))
    with pytest.raises(ValueError, match="got None"):
        plain.network([], (6, 6, 2))


ANGLES = np.array([0.3, 1.1])
OTHERS = {
    "max_min": ({"pairing": "neighbours"}, (2, 2, 4), 1.0),
    "householder": ({"angle": ANGLES}, (2, 2, 4), 1.0),
    "householder2": ({"angles": np.stack([ANGLES] * 3)}, (2, 2, 4), 1.0),
    "channel_max": ({}, (2, 2, 4), 1.0),
    "cone_distance": ({"angle": ANGLES}, (2, 2, 4), 1.0),
    "point_distance": ({"point": np.ones((2, 2))}, (2, 2, 4), 1.0),
    "polyline_distance": (plain_rays(np.array([[[1.0, 1], [0, 0], [1, -2]]] * 2)), (2, 2, 4), 1.0),
    "frequency_conv": (FREQUENCIES, (2, 2, 2), 2.0),
    "average_pool": ({"size": 2}, (4, 4, 2), 0.5),
    "global_average_pool": ({}, (3, 3, 2), 1 / 3),
    "l2_pool": ({"size": 2}, (4, 4, 2), 1.0),
    "global_l2_pool": ({}, (3, 3, 2), 1.0),
    "shift": ({"count": 4}, (3, 3, 4), 1.0),
    "space_to_depth": ({"block": 2, "order": "row_column_channel"}, (4, 4, 2), 1.0),
    "pad": ({"padding": ((1, 0), (0, 2)), "channels": (0, 1)}, (3, 3, 2), 1.0),
    "slice_channels": ({"start": 1, "stop": 3}, (3, 3, 4), 1.0),
    "take_channels": ({"order": [3, 0]}, (3, 3, 4), 1.0),
    "unflatten": ({"shape": (2, 2, 3)}, (12,), 1.0),
    "add": ({"term": np.ones((2, 2, 1))}, (2, 2, 4), 1.0),
    "max_pool": ({"size": 2}, (4, 4, 2), 1.0),
    "flatten": ({"order": "chw"}, (2, 2, 3), 1.0),
    "affine": ({"scale": np.array([1.0, -3.0]), "shift": 0.5}, (2, 2, 2), 3.0),
    "activation": ({"name": "gelu"}, (2, 2, 2), 1.128904145185155),
    "conv": ({"kernel": np.ones((1, 1, 2, 2))}, (2, 2, 2), 2.0),
    "dense": ({"kernel": np.ones((4, 4))}, (4,), 4.0),
}


@pytest.mark.parametrize("kind", ["frequency_conv", "polyline_distance", "householder2", "cone_distance"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_that_were_rounded_have_a_bound_of_their_own(kind, dtype):
    """A Fourier matrix in float32 may have a norm above 1: what the interpreter makes of these numbers is bounded."""
    about, shape, _ = OTHERS[kind]
    about = {key: np.asarray(value, dtype) if key != "grid" else value for key, value in about.items()}
    if kind == "frequency_conv":
        about |= {key: about[key] * (1 + np.asarray(6e-8, dtype)) for key in ("down", "across")}
    if kind == "householder2":
        about["angles"] = np.full((3, 2), np.asarray(2 * np.pi, dtype))
    if kind == "cone_distance":
        about["angle"] = np.full(2, np.asarray(np.pi, dtype))
    bound = lipjax.bound([{"kind": kind, **about}], image_shape=shape).lipschitz
    if kind == "frequency_conv":
        about = {key: value.astype(np.float64) if key != "grid" else value for key, value in about.items()}
        whole = interpreter.run([{"kind": kind, **about}], np.eye(8).reshape(8, *shape)).reshape(8, 8)
        norm = np.linalg.norm(whole, 2)
        assert 2 < norm <= bound < norm * (1 + 1e-5)
    else:
        assert bound == 1


def test_all_that_fourier_matrices_are_off_is_counted():
    """Off along one direction, that of a constant column, by δ: four products with them enlarge it by (1 + δ)⁴."""
    grid, off = (5, 6), 9e-7
    down, across = transforms((3, 1), grid)  # of one pixel in a row all coefficients are real
    column = np.concatenate([np.full(3, 3**-0.5), np.zeros(3)])
    ones = np.ones((grid[0] * (grid[1] // 2 + 1), 1, 1))
    layer = {"kind": "frequency_conv", "grid": grid, "real": ones, "imaginary": 0 * ones}
    layer |= {"down": down + off * np.outer(column, column @ down), "across": (1 + off) * across}
    gain = np.linalg.norm(interpreter.run([layer], np.full((1, 3, 1, 1), 3**-0.5)))
    np.testing.assert_allclose(gain, (1 + off) ** 4, rtol=1e-14)
    assert gain <= lipjax.bound([layer], image_shape=(3, 1, 1)).lipschitz <= gain * (1 + 1e-8)


def test_every_kind_is_tried_here():
    assert set(OTHERS) == set(KINDS)


def test_every_kind_that_is_read_is_run_by_the_interpreter_and_the_other_way_round():
    assert {*KINDS, "sum", "concatenate", "split"} == set(interpreter.LAYERS)


@pytest.mark.parametrize("kind", OTHERS)
def test_every_kind_has_its_bound(kind, rng):
    options, shape, bound = OTHERS[kind]
    description = [{"kind": kind, **options}]
    proof = lipjax.bound(description, image_shape=shape)
    assert bound * (1 - 1e-9) <= proof.lipschitz <= bound * (1 + 2e-4)
    assert proof.rounding is not None
    layer, own = plain.read(description, shape)
    u, v = rng.normal(size=(2, 50, *shape))
    with jax.enable_x64(True):
        grown = np.linalg.norm((layer.evaluate(own, u) - layer.evaluate(own, v)).reshape(50, -1), axis=1)
    assert (grown <= proof.lipschitz * np.linalg.norm((u - v).reshape(50, -1), axis=1) * (1 + 1e-12)).all()


def test_rearrangements_are_what_they_say(float64, rng):
    def run(x, kind, **options):
        layer, own = plain.read([{"kind": kind, **options}], x.shape[1:])
        return np.asarray(layer.evaluate(own, x))

    x = rng.normal(size=(2, 4, 4, 3))
    blocks = x.reshape(2, 2, 2, 2, 2, 3)
    by_pixel = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(2, 2, 2, 12)
    by_channel = blocks.transpose(0, 1, 3, 5, 2, 4).reshape(2, 2, 2, 12)
    np.testing.assert_array_equal(run(x, "space_to_depth", order="row_column_channel"), by_pixel)
    np.testing.assert_array_equal(run(x, "space_to_depth"), by_channel)
    np.testing.assert_array_equal(run(x, "flatten", order="chw"), x.transpose(0, 3, 1, 2).reshape(2, -1))
    np.testing.assert_array_equal(run(x, "slice_channels", start=1, stop=3), x[..., 1:3])
    np.testing.assert_array_equal(run(x, "take_channels", order=[2, 0]), x[..., [2, 0]])
    padded = np.pad(x, ((0, 0), (1, 0), (0, 2), (0, 1)))
    np.testing.assert_array_equal(run(x, "pad", padding=((1, 0), (0, 2)), channels=(0, 1)), padded)
    pairs = rng.normal(size=(2, 6))
    sorted_pairs = -np.sort(-pairs.reshape(2, 3, 2), axis=-1)
    np.testing.assert_array_equal(run(pairs, "max_min", pairing="neighbours"), sorted_pairs.reshape(2, 6))
    split = run(x, "split", channels=[1, 2], branches=[[], [{"kind": "affine", "scale": 2.0, "shift": 0.0}]])
    np.testing.assert_array_equal(split, x * [1, 2, 2])
    np.testing.assert_array_equal(run(x, "concatenate", branches=[[], []]), np.concatenate([x, x], axis=-1))
