"""Networks of other programs are those networks, and what is proven of them is true of them."""

import jax
import numpy as np
import pytest
from programs import CASES

from lipjax import prove
from lipjax.interop import PROGRAMS
from lipjax.interop.witness import gain_found
from lipjax.layers import ConvexPotential, Householder, Householder2, InputScale
from lipjax.layers.layer import own_of


@pytest.fixture(scope="module", params=list(CASES))
def case(request):
    return CASES[request.param](np.random.default_rng(0))


@pytest.fixture(scope="module")
def found(case):
    return PROGRAMS[case.like](case.state, **case.settings)


@pytest.fixture(scope="module")
def proven(found):
    return prove(found.model, found.variables)


@pytest.fixture(scope="module")
def images(case):
    return np.random.default_rng(1).uniform(size=(4, *case.shape))


def test_logits_are_those_of_the_program(case, found, proven, images):
    expected = case.logits(case.state, images)
    with jax.enable_x64(True):
        of_64 = np.asarray(proven.apply(found.variables, images)[1])
    of_32 = np.asarray(proven.outputs(np.float32(images), np.float32)[1])
    np.testing.assert_allclose(of_64, expected, atol=1e-10, rtol=0)
    assert np.abs(of_32 - expected).max() < 1e-5 * max(1, np.abs(expected).max())


def test_no_layer_enlarges_by_more_than_is_proven_and_affine_ones_by_nearly_as_much(found, proven):
    backbone = found.model.backbone
    shapes = backbone.input_shapes(proven.variables, proven.image_shape)
    for (name, layer), shape, (_, proof) in zip(backbone.layers, shapes, proven.proof.parts, strict=True):
        own = own_of(proven.variables, name)
        if not own:
            continue
        if isinstance(layer, ConvexPotential | Householder | Householder2):  # not affine
            assert gain_found(layer, own, shape, 30) <= proof.lipschitz * (1 + 1e-12)
            continue
        size = int(np.prod(shape))
        if size > 1100:  # too many for a matrix
            assert gain_found(layer, own, shape, 10) <= proof.lipschitz * (1 + 1e-12)
            continue
        with jax.enable_x64(True):
            at = np.concatenate([np.zeros((1, size)), np.eye(size)]).reshape(-1, *shape)
            values = np.asarray(layer.evaluate(own, at)).reshape(size + 1, -1)
        norm = np.linalg.norm(values[1:] - values[:1], 2)
        assert norm * (1 - 1e-12) <= proof.lipschitz <= 1.02 * norm, name
        assert np.linalg.norm(values[0]) <= proof.offset * (1 + 1e-12) + 1e-12


def test_claims_are_near_what_is_proven(found, proven):
    constants = found.claim.constants()
    assert len(constants) == len(found.model.backbone.layers)
    for (name, layer), constant, (_, proof) in zip(
        found.model.backbone.layers, constants, proven.proof.parts, strict=True
    ):
        if not isinstance(layer, InputScale):
            assert 0.9 * proof.lipschitz <= constant <= 1.01 * proof.lipschitz or constant == 1, name


def test_what_is_missing_left_or_misshapen_is_named(case):
    read, names = PROGRAMS[case.like], list(case.state)
    for name in names[:: max(1, len(names) // 16)]:
        without = {key: array for key, array in case.state.items() if key != name}
        with pytest.raises(ValueError, match=f"{case.like}: "):
            read(without, **case.settings)
    for name in names[:: max(1, len(names) // 12)]:
        longer = np.concatenate([case.state[name]] * 2, axis=-1) if case.state[name].ndim else np.zeros(2)
        with pytest.raises(ValueError, match=f"{case.like}: "):
            read({**case.state, name: longer}, **case.settings)
    with pytest.raises(ValueError, match="not understood: 'extra.weight'"):
        read({**case.state, "extra.weight": np.zeros(3)}, **case.settings)
    floats = next(name for name in names if np.asarray(case.state[name]).dtype.kind == "f")
    if np.dtype(np.longdouble).itemsize > 8:  # which it is not everywhere
        with pytest.raises(ValueError, match="must be an array of real numbers of 64 bits at most, got float"):
            read({**case.state, floats: np.asarray(case.state[floats], np.longdouble)}, **case.settings)
    with pytest.raises(ValueError, match="entries that are not finite|must be the array"):
        read({**case.state, names[0]: np.full_like(np.asarray(case.state[names[0]], float), np.nan)}, **case.settings)
