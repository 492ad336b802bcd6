"""What another program computed, an earlier lipjax or a network with other constants, is computed again."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lipjax
from lipjax.certificates import curvature_cache
from lipjax.evaluation import split
from lipjax.evaluation.radius import Radius
from lipjax.evaluation.split import certify_run
from lipjax.evaluation.verify import NotVerified, verify_run
from lipjax.layers import Flatten, Layer, Sequential
from lipjax.layers.last_layer_normalization import LastLayerNormalization
from lipjax.layers.layer import isometry
from lipjax.system import versions


def quiet(line):
    pass


@pytest.fixture
def copied(trained_crc, tmp_path):
    return shutil.copytree(
        trained_crc[0], tmp_path / "run", ignore=shutil.ignore_patterns("certificates*", "curvature.npz")
    )


def test_the_digest_is_of_every_file(tmp_path, monkeypatch):
    """A change of one file, or of a name, changes it."""
    found = versions.program()
    assert found == versions.program.__wrapped__()
    house = shutil.copytree(versions.Path(versions.__file__).parents[1], tmp_path / "lipjax")
    monkeypatch.setattr(versions, "__file__", str(house / "system" / "versions.py"))
    assert versions.program.__wrapped__() == found
    file = house / "ops" / "curvature.py"
    file.write_text(file.read_text(encoding="utf-8") + "# another\n", encoding="utf-8")
    changed = versions.program.__wrapped__()
    file.rename(file.with_name("curvatures.py"))
    assert len({found[0], changed[0], versions.program.__wrapped__()[0]}) == 3
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert versions.program.__wrapped__()[-1] != found[-1]


def test_rows_of_another_lipjax_are_computed_again(copied, monkeypatch):
    """Its radii were too large, and it was stopped before the end."""
    asked = {"num_examples": 40, "radii": "0.01", "batch_size": 10, "say": quiet}
    batch, done = Radius.batch, []

    def too_large(self, given):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(given)
        return batch(self, given) | {"radius": 1 + batch(self, given)["radius"]}

    with monkeypatch.context() as patch:
        patch.setattr(Radius, "batch", too_large)
        patch.setattr(split, "program", lambda: ("another",))
        with pytest.raises(KeyboardInterrupt):
            certify_run(copied, **asked)
    lines = []
    found = certify_run(copied, **asked | {"say": lines.append})
    assert not any("going on" in line for line in lines)
    radius = np.genfromtxt(copied / "certificates" / "per_image.csv", delimiter=",", names=True)["radius"]
    assert radius.max() < 1
    assert found["certified_accuracy"]["0.01"] < 1


def test_curvatures_of_another_lipjax_are_computed_again(copied, monkeypatch):
    """Its bounds were too small.  Those of this very program are kept; to verify is to compute them all the same."""
    asked, file = {"num_examples": 40, "radii": "0.01", "say": quiet}, copied / "checkpoints" / "curvature.npz"
    bound = curvature_cache.pair_bound
    true = certify_run(copied, **asked)
    for same_program in (False, True):
        file.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(curvature_cache, "pair_bound", lambda *given: 1e-4 * bound(*given))
            if not same_program:
                patch.setattr(curvature_cache, "program", lambda: ("another",))
            wrong = certify_run(copied, **asked)
            assert wrong["average_certified_radius"] > 1.001 * true["average_certified_radius"]
        if same_program:
            with pytest.raises(NotVerified, match="average_certified_radius"):
                verify_run(copied, say=quiet)
        else:
            found = certify_run(copied, **asked)
            assert found["average_certified_radius"] == true["average_certified_radius"]
            verify_run(copied, say=quiet)


class Shifted(Layer):
    """Adds what no field and no variable says."""

    def __call__(self, x, train=False):
        return x + constant

    def proof(self, own, shape):
        return isometry("shifted", "a shift", float(np.linalg.norm(constant)))


def network(count):
    backbone = Sequential((("shifted", Shifted()), ("flatten", Flatten())))
    return lipjax.Network(backbone, LastLayerNormalization(count), image_shape=(8, 8, 3))


@pytest.mark.parametrize("place", [(0, 0, 0), (7, 7, 2), (4, 3, 1)])
def test_a_program_is_known_by_its_constants(place):
    """Whatever their number, and where nothing but the running program has them: a module of a user's own, say."""
    global constant
    found = []
    for change in (0.0, 0.0, 1e-12):
        constant = np.random.default_rng(0).random((8, 8, 3))
        constant[place] += change
        model = network(3)
        variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        found.append(lipjax.prove(model, variables).program_sha256)
    assert found[0] == found[1] != found[2]
