"""Images of any shape, from the public commands' functions: trained, certified, and read from single files."""

import numpy as np
import pytest
from conftest import quiet, tiny_config
from PIL import Image

import lipjax
from lipjax.data import Dataset
from lipjax.evaluation.single_images import certify_files
from lipjax.evaluation.split import certify_run
from lipjax.training.loop import train
from lipjax.workdir import load_trained


def config_of(**changes):
    config = tiny_config()
    config.run.batch_size, config.run.epochs = 8, 1
    config.optimizer.schedule = {"name": "constant_schedule"}
    config.update_from_flattened_dict({"data.validation_fraction": 0.0, **changes})
    return config


def two_classes(shape, count=24):
    """Dark and light."""
    rng, labels = np.random.default_rng(0), np.arange(count) % 2
    light = labels.reshape(-1, *[1] * len(shape))
    images = (rng.integers(0, 100, (count, *shape)) + 150 * light).astype(np.uint8)
    return Dataset.of_arrays("mine", (images[:16], labels[:16]), (images[16:], labels[16:]), ["dark", "light"])


CONVNET = {"name": "convnet", "width": 2, "blocks": 3, "layers": 1}


@pytest.mark.parametrize(("shape", "network"), [((28, 28, 1), None), ((12, 20, 3), None), ((12, 20, 3), CONVNET)])
def test_arrays_of_any_shape_are_trained_on_and_certified(shape, network, tmp_path):
    dataset, config = two_classes(shape), config_of()
    config.model.mean = (0.3,) * shape[2]
    if network:
        config.model = network
    train(config, tmp_path / "run", quiet, dataset=dataset)
    trained = load_trained(tmp_path / "run")
    assert (trained.data.image_shape, trained.model.image_shape) == (shape, shape)
    summary = certify_run(tmp_path / "run", say=quiet, dataset=dataset)
    assert summary["num_examples"] == 8
    assert summary["rounding"]["unknown"] == []
    assert "zeros around" in str(summary["chain_of_proof"])
    Image.fromarray(dataset.test.images[1].squeeze()).save(tmp_path / "a.png")
    lines = []
    certify_files(tmp_path / "run", str(tmp_path / "a.png"), lines.append, quiet)
    assert len(lines) == 1
    certificate = trained.prove().certify(dataset.test.images.astype(np.float32) / 255)
    assert f", certified radius {int(certificate.radius[1] * 10000) / 10000:.4f}" in lines[0]


def test_a_folder_of_unequal_pictures_with_random_resized_crops(tmp_path):
    """Held-out and training images, kept larger for the crops, are certified at the size of the network."""
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 150)):
        for index in range(15):
            path = tmp_path / "pictures" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(low, low + 100, (9 + index, 20 - index, 3), dtype=np.uint8)).save(path)
    config = config_of(**{"data.name": "folder", "data.data_dir": str(tmp_path / "pictures")})
    config.update_from_flattened_dict({"data.image_size": (6, 7), "data.resized_crop": 0.3, "data.test_fraction": 0.2})
    config.update_from_flattened_dict({"data.validation_fraction": 0.25, "model.mean": (0.3,) * 3})
    train(config, tmp_path / "run", quiet)
    trained = load_trained(tmp_path / "run")
    assert (trained.data.image_shape, trained.data.image_size) == ((6, 7, 3), (6, 7))
    assert trained.dataset(say=quiet).train.images.shape[1:] == (7, 8, 3)
    for split, count in (("test", 6), ("validation", 6), ("train", 18)):
        assert certify_run(tmp_path / "run", say=quiet, split=split)["num_examples"] == count
    lines = []
    certify_files(tmp_path / "run", str(tmp_path / "pictures" / "light"), lines.append, quiet)
    assert len(lines) == 15
    train(config, tmp_path / "run", quiet)  # again: it is finished
    with config.ignore_type():
        config.data.image_size = 8
    with pytest.raises(ValueError, match=r"data.image_size: \[6, 7\] there, 8 now"):
        lipjax.train(config, tmp_path / "run", quiet)
