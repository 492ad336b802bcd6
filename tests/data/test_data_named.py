"""Named datasets: prepared without TensorFlow from small synthetic archives, which a loopback server hands out."""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import io
import os
import re
import runpy
import shutil
import socket
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image, ImageOps
from tensorflow_datasets.core import registered, shuffle
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.utils import lazy_imports_utils
from tensorflow_datasets.image_classification import cifar, mnist

from lipjax.data import DataError, load, named, without_tensorflow
from lipjax.evaluation.split import certify_run
from lipjax.system.memory import in_words
from lipjax.training.loop import train
from lipjax.workdir import load_trained

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "tfds"
needs_real_data = pytest.mark.skipif(not (REAL / "cifar10").is_dir(), reason="no prepared CIFAR-10 beside the project")
pytestmark = pytest.mark.skipif(without_tensorflow.tensorflow_is_installed(), reason="tests the absence of TensorFlow")

RNG_SEED = 7
TRAIN, TEST = 30, 12


class Server:
    """Hands out ``files`` ({name: bytes}) over loopback; ``cut`` names files whose connection breaks half-way."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.requests: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                server.requests.append(name)
                if name not in server.files:
                    self.send_error(404)
                    return
                body = server.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if name in server.cut else body)

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def url_infos(self) -> dict:
        """Checksums of the files as they are now, in the form in which a builder carries those of its downloads."""
        return {
            self.url + name: tfds.download.checksums.UrlInfo(
                size=tfds.core.utils.Size(len(body)), checksum=hashlib.sha256(body).hexdigest(), filename=name
            )
            for name, body in self.files.items()
        }

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lipjax"


@pytest.fixture(autouse=True)
def asked_hosts(monkeypatch) -> list[str]:
    """No network but loopback, no pauses between download attempts; the list of the other hosts that were asked."""
    hosts: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        if host in ("127.0.0.1", "localhost"):
            return real(host, *args, **kwargs)
        hosts.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(named, "_DOWNLOAD_RETRIES", 0)
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    return hosts


@pytest.fixture(autouse=True)
def no_fake_tensorflow_is_left():
    yield
    assert "tensorflow" not in sys.modules
    assert "_module" not in vars(lazy_imports_utils.tensorflow)


def synthetic(n: int, shape: tuple[int, ...], num_classes: int, seed: int = RNG_SEED) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(n)  # tells the images apart after tensorflow-datasets has shuffled them
    return images, rng.integers(0, num_classes, n).astype(np.int32)


def in_original_order(split: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = split
    order = np.argsort(images[:, 0, 0, 0])
    return images[order], labels[order]


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


def cifar_binary(images: np.ndarray, *labels: np.ndarray) -> bytes:
    columns = [label.astype(np.uint8)[:, None] for label in labels]
    return np.concatenate([*columns, images.transpose(0, 3, 1, 2).reshape(len(images), -1)], axis=1).tobytes()


def names(n: int) -> bytes:
    return "".join(f"class_{i}\n" for i in range(n)).encode()


@pytest.fixture
def cifar10(server, monkeypatch):
    """CIFAR-10's builder, pointed at a synthetic archive; its images and labels in their original order."""
    splits = {"train": synthetic(TRAIN, (32, 32, 3), 10), "test": synthetic(TEST, (32, 32, 3), 10, RNG_SEED + 1)}
    images, labels = splits["train"]
    parts = {
        f"data_batch_{i + 1}.bin": cifar_binary(images[part], labels[part])
        for i, part in enumerate(np.array_split(np.arange(TRAIN), 5))
    }
    parts |= {"test_batch.bin": cifar_binary(*splits["test"]), "batches.meta.txt": names(10)}
    server.files["cifar10.tar.gz"] = tar_gz({f"cifar-10-batches-bin/{name}": part for name, part in parts.items()})
    point_cifar_at(cifar.Cifar10, server, "cifar10.tar.gz", monkeypatch)
    return splits


def point_cifar_at(cls: Any, server: Server, archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = cls._cifar_info.fget
    monkeypatch.setattr(cls, "_cifar_info", property(lambda self: stock(self)._replace(url=server.url + archive)))
    monkeypatch.setattr(cls, "url_infos", server.url_infos())


def assert_loaded(loaded: tuple[dict, tuple], splits: dict, num_classes: int) -> None:
    assert len(loaded[1]) == num_classes
    assert set(loaded[0]) == {"train", "test"}
    for split, (images, labels) in splits.items():
        got_images, got_labels = in_original_order(loaded[0][split])
        assert (got_images.dtype, got_labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(got_images, images)
        np.testing.assert_array_equal(got_labels, labels)


def assert_stock_reads_the_same(name: str, data_dir: Path, loaded: tuple[dict, tuple]) -> None:
    """What a plain tensorflow-datasets, without the stand-in, reads from the directory."""
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    for split, (images, labels) in loaded[0].items():
        source = builder.as_data_source(split)
        np.testing.assert_array_equal(np.stack([example["image"] for example in source]), images)
        np.testing.assert_array_equal([example["label"] for example in source], labels)


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("decoded again")

    monkeypatch.setattr(tfds.features.Image, "decode_example_np_with_pil", refuse)


def prepared(data_dir: Path) -> list[str]:
    """The prepared or half-prepared versions in a data_dir."""
    return sorted(path.name for path in data_dir.glob("*/*") if path.parent.name != "downloads")


def test_cifar10_is_prepared_and_read(tmp_path, cifar10, asked_hosts, capsys):
    loaded = named.load_named("cifar10", tmp_path)
    assert_loaded(loaded, cifar10, 10)
    assert_stock_reads_the_same("cifar10", tmp_path, loaded)
    builder = tfds.builder("cifar10", data_dir=tmp_path, file_format="array_record")
    assert builder.info.features["label"].names[3] == "class_3"
    assert loaded[1] == tuple(f"class_{i}" for i in range(10))
    assert asked_hosts == []
    told = capsys.readouterr().out.splitlines()
    assert told == [f"{TRAIN + TEST} images of 10 classes, cifar10 in {tmp_path}: 129 kB of memory"]


def test_cifar100_is_prepared_and_read_with_its_fine_labels(tmp_path, server, monkeypatch, asked_hosts):
    splits = {"train": synthetic(TRAIN, (32, 32, 3), 100), "test": synthetic(TEST, (32, 32, 3), 100, RNG_SEED + 1)}
    parts = {
        f"{split}.bin": cifar_binary(images, labels % 20, labels) for split, (images, labels) in splits.items()
    } | {"coarse_label_names.txt": names(20), "fine_label_names.txt": names(100)}
    server.files["c100.tar.gz"] = tar_gz({f"cifar-100-binary/{name}": part for name, part in parts.items()})
    point_cifar_at(cifar.Cifar100, server, "c100.tar.gz", monkeypatch)
    loaded = named.load_named("cifar100", str(tmp_path))
    assert_loaded(loaded, splits, 100)
    assert_stock_reads_the_same("cifar100", tmp_path, loaded)
    assert asked_hosts == []

    # The recipe for it, from the shipped config to certificates against all 99 rivals.
    config = runpy.run_path(str(ROOT / "configs" / "paper" / "cifar100_crc.py"))["get_config"]()
    config.update_from_flattened_dict(
        {
            "data.data_dir": str(tmp_path),
            "model.init_channels": 2,
            "model.hidden": 8,
            "model.degree": 2,
            "run.epochs": 1,
        }
    )
    config.run.batch_size = TRAIN // 2
    config.optimizer.schedule = {"name": "constant_schedule"}
    train(config, tmp_path / "run", say=lambda line: None)
    summary = certify_run(tmp_path / "run")
    assert (summary["dataset"], summary["num_examples"]) == ("cifar100", TEST)
    rows = list(csv.DictReader((tmp_path / "run" / "certificates" / "per_image.csv").open()))
    assert sorted(int(row["label"]) for row in rows) == sorted(splits["test"][1].tolist())
    assert {int(row["rival"]) for row in rows} <= set(range(100))
    variables = load_trained(tmp_path / "run").variables
    assert variables["params"]["head"]["w2"].shape == (100, 8)


def test_fashion_mnist_is_prepared_and_read(tmp_path, server, monkeypatch, asked_hosts, capsys):
    splits = {"train": synthetic(TRAIN, (28, 28, 1), 10), "test": synthetic(TEST, (28, 28, 1), 10, RNG_SEED + 1)}
    for prefix, (images, labels) in zip(("train", "t10k"), splits.values(), strict=True):
        server.files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(bytes(16) + images.tobytes())
        server.files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(bytes(8) + labels.astype(np.uint8).tobytes())
    monkeypatch.setattr(mnist.FashionMNIST, "URL", server.url)
    monkeypatch.setattr(mnist.FashionMNIST, "url_infos", server.url_infos())
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", TRAIN)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", TEST)
    loaded = named.load_named("fashion_mnist", tmp_path)
    told = in_words((TRAIN + TEST) * 28 * 28)
    assert capsys.readouterr().out.endswith(f"fashion_mnist in {tmp_path}: {told} of memory\n")
    assert_loaded(loaded, splits, 10)
    assert_stock_reads_the_same("fashion_mnist", tmp_path, loaded)
    assert asked_hosts == []


def test_svhn_cropped_is_prepared_and_read(tmp_path, server, monkeypatch, asked_hosts):
    splits = {"train": synthetic(TRAIN, (32, 32, 3), 10), "test": synthetic(TEST, (32, 32, 3), 10, RNG_SEED + 1)}
    for split, (images, labels) in {**splits, "extra": splits["test"]}.items():
        file = io.BytesIO()  # a MATLAB file with the images along its last axis and 10 for the digit 0
        scipy.io.savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels, labels, 10)[:, None]})
        server.files[f"{split}_32x32.mat"] = file.getvalue()
    builder = tfds.builder_cls("svhn_cropped")
    monkeypatch.setattr(sys.modules[builder.__module__], "URL", server.url)
    monkeypatch.setattr(builder, "url_infos", server.url_infos())
    loaded = named.load_named("svhn_cropped", tmp_path)
    assert_loaded(loaded, splits, 10)
    assert_stock_reads_the_same("svhn_cropped", tmp_path, loaded)
    assert asked_hosts == []


def test_default_data_dir_is_that_of_tensorflow_datasets(tmp_path, cifar10, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))
    assert_loaded(named.load_named("cifar10", None), cifar10, 10)
    assert prepared(tmp_path / "default") == ["3.0.2"]


def test_second_load_comes_from_the_cache(tmp_path, server, cifar10, cache, monkeypatch):
    named.load_named("cifar10", tmp_path)
    assert [path.suffix for path in cache.iterdir()] == [".npz"]
    downloads = len(server.requests)
    forbid_decoding(monkeypatch)
    assert_loaded(named.load_named("cifar10", tmp_path), cifar10, 10)
    assert len(server.requests) == downloads


def test_changed_dataset_is_decoded_again(tmp_path, cifar10, monkeypatch):
    named.load_named("cifar10", tmp_path)
    (shard,) = tmp_path.glob("cifar10/3.0.2/*test*")
    os.utime(shard, ns=(0, 0))
    forbid_decoding(monkeypatch)
    with pytest.raises(RuntimeError, match="decoded again"):
        named.load_named("cifar10", tmp_path)


def test_another_folder_is_decoded_for_itself(tmp_path, cifar10, cache):
    """One whose files have the same names, sizes and times, as in images of containers, and other labels."""
    named.load_named("cifar10", tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    named.load_named("cifar10", tmp_path / "other")
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other arrays"])
def test_damaged_cache_is_decoded_again(tmp_path, cifar10, cache, damage):
    named.load_named("cifar10", tmp_path)
    (file,) = cache.iterdir()
    body = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(body[:-100])
    elif damage == "flipped":
        body[len(body) // 2] ^= 1
        file.write_bytes(body)
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        np.savez(file, **{f"{s}_{a}": np.zeros(3) for s in ("train", "test") for a in ("images", "labels")})
    assert_loaded(named.load_named("cifar10", tmp_path), cifar10, 10)
    assert file.stat().st_size == len(body)


def test_unwritable_cache_costs_only_time(tmp_path, cifar10, monkeypatch, caplog):
    (tmp_path / "a_file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a_file"))
    assert_loaded(named.load_named("cifar10", tmp_path), cifar10, 10)
    assert "lipjax caches nothing" in caplog.text


def test_prepared_directory_may_be_read_only(tmp_path, cifar10, cache):
    root = tmp_path / "data"
    named.load_named("cifar10", root)
    for file in cache.iterdir():
        file.unlink()
    folders = [path for path in (root, *root.rglob("*")) if path.is_dir()]
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert_loaded(named.load_named("cifar10", root), cifar10, 10)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    # The superuser may write all the same, so look for traces as well.
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before


def test_wrong_checksum_is_refused(tmp_path, server, cifar10):
    good = server.files["cifar10.tar.gz"]
    server.files["cifar10.tar.gz"] = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(RuntimeError, match="wrong checksum") as raised:
        named.load_named("cifar10", tmp_path)
    assert isinstance(raised.value.__cause__, NonMatchingChecksumError)
    assert prepared(tmp_path) == []
    server.files["cifar10.tar.gz"] = good
    assert_loaded(named.load_named("cifar10", tmp_path), cifar10, 10)


def test_download_without_a_recorded_checksum_is_refused(tmp_path, cifar10, monkeypatch):
    monkeypatch.setattr(cifar.Cifar10, "url_infos", {})
    with pytest.raises(RuntimeError, match="Missing checksums"):
        named.load_named("cifar10", tmp_path)
    assert prepared(tmp_path) == []


@pytest.mark.parametrize("how", ["file", "connection", "archive with its own checksum"])
def test_truncated_archive_is_refused_and_the_good_one_then_loaded(tmp_path, server, cifar10, monkeypatch, how):
    good = server.files["cifar10.tar.gz"]
    if how == "connection":
        server.cut.add("cifar10.tar.gz")
    else:
        server.files["cifar10.tar.gz"] = good[: len(good) // 2]
    if how == "archive with its own checksum":
        monkeypatch.setattr(cifar.Cifar10, "url_infos", server.url_infos())
    with pytest.raises(RuntimeError, match="preparing it there failed") as raised:
        named.load_named("cifar10", tmp_path)
    assert raised.value.__cause__ is not None
    assert prepared(tmp_path) == []
    server.cut.clear()
    server.files["cifar10.tar.gz"] = good
    monkeypatch.setattr(cifar.Cifar10, "url_infos", server.url_infos())
    assert_loaded(named.load_named("cifar10", tmp_path), cifar10, 10)


def test_interrupted_preparation_is_not_taken_for_a_dataset(tmp_path, cifar10, monkeypatch):
    stock = tfds.features.Image.encode_example
    images = iter(range(TRAIN + TEST // 2))

    def interrupted(self, image):
        if next(images, None) is None:
            raise KeyboardInterrupt
        return stock(self, image)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tfds.features.Image, "encode_example", interrupted)
        named.load_named("cifar10", tmp_path)
    assert prepared(tmp_path) == []
    assert_loaded(named.load_named("cifar10", tmp_path), cifar10, 10)


def test_truncated_shard_is_refused(tmp_path, cifar10):
    named.load_named("cifar10", tmp_path)
    (shard,) = tmp_path.glob("cifar10/3.0.2/*train*")
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(RuntimeError, match="cannot be read.*Remove this folder"):
        named.load_named("cifar10", tmp_path)


def test_folder_without_features_is_refused(tmp_path, cifar10):
    named.load_named("cifar10", tmp_path)
    (tmp_path / "cifar10" / "3.0.2" / "features.json").unlink()
    with pytest.raises(RuntimeError, match=r"data_dir: .*features\.json is missing.*remove the folder"):
        named.load_named("cifar10", tmp_path)


def test_dataset_prepared_in_another_format_is_refused(tmp_path, cifar10):
    named.load_named("cifar10", tmp_path)
    info = tmp_path / "cifar10" / "3.0.2" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(RuntimeError, match=r"data_dir: .*cannot be read as array_record.*tfrecord"):
        named.load_named("cifar10", tmp_path)


def test_other_version_that_is_there_is_read(tmp_path, server, cifar10):
    named.load_named("cifar10", tmp_path)
    folder = tmp_path / "cifar10"
    info = folder / "3.0.2" / "dataset_info.json"
    info.write_text(info.read_text().replace('"3.0.2"', '"2.9.0"'))
    (folder / "3.0.2").rename(folder / "2.9.0")
    downloads = len(server.requests)
    assert_loaded(named.load_named("cifar10", tmp_path), cifar10, 10)
    assert len(server.requests) == downloads


def test_no_network(tmp_path, asked_hosts):
    with pytest.raises(RuntimeError) as raised:
        named.load_named("cifar10", tmp_path / "nothing_here")
    message = str(raised.value)
    assert re.match(r"data_dir: '[^']*nothing_here' holds no prepared 'cifar10'", message)
    for part in (os.path.join("cifar10", "<version>"), "ConnectionError", "Name or service not known", "file_format="):
        assert part in message
    assert raised.value.__cause__ is not None
    assert asked_hosts == ["www.cs.toronto.edu"]


def test_read_only_data_dir_without_the_dataset(tmp_path):
    (tmp_path / "a_file").write_bytes(b"")
    with pytest.raises(RuntimeError, match=r"data_dir: .*holds no prepared 'cifar10'"):
        named.load_named("cifar10", tmp_path / "a_file" / "data")


def test_remote_data_dir_is_refused():
    with pytest.raises(ValueError, match=r"data_dir: 'gs://bucket' is not allowed"):
        named.load_named("cifar10", "gs://bucket")


@pytest.mark.parametrize("name", ["cifra10", "CIFAR10", "huggingface:mnist", "", "../cifar10", "cifar10/x=1"])
def test_unknown_name(tmp_path, name, asked_hosts):
    with pytest.raises(
        ValueError, match=rf"^dataset: {re.escape(repr(name))} is not known; allowed: 'digits', 'folder', 'npz', "
    ) as e:
        named.load_named(name, tmp_path)
    assert ("'cifar10'" if "10" in name else "mnist") in str(e.value)
    assert asked_hosts == []
    assert list(tmp_path.iterdir()) == []


def test_unknown_configuration(tmp_path, asked_hosts):
    with pytest.raises(ValueError, match=r"^dataset: 'emnist/foo' is not known; allowed configurations.*'balanced'"):
        named.load_named("emnist/foo", tmp_path)
    assert asked_hosts == []


def test_version_that_cannot_be_prepared(tmp_path):
    with pytest.raises(RuntimeError, match=r"data_dir: .*'cifar10:1.0.0'.*only: 3.0.2"):
        named.load_named("cifar10:1.0.0", tmp_path)


IMAGE, LABEL = tfds.features.Image(shape=(8, 8, 3)), tfds.features.ClassLabel(num_classes=4)


def register(monkeypatch, features: dict, generate=None, keys=("image", "label"), splits=("train", "test")) -> None:
    """Make a dataset 'made_up' of these features known to tensorflow-datasets for one test."""

    class MadeUp(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        name = "made_up"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=keys
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in splits}

        def _generate_examples(self):
            yield from generate()

    monkeypatch.setitem(registered._DATASET_REGISTRY, "made_up", MadeUp)


@pytest.mark.parametrize(
    ("features", "keys", "found"),
    [
        ({"image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint16), "label": LABEL}, None, "uint16"),
        ({"image": IMAGE, "mask": IMAGE, "label": LABEL}, ("image", "label"), "['image', 'mask']"),
        ({"image": IMAGE, "label": tfds.features.Scalar(np.int64)}, ("image", "label"), "Scalar"),
        ({"text": tfds.features.Text(), "label": LABEL}, ("text", "label"), "[]"),
        ({"image": IMAGE, "label": LABEL}, "none", "None"),
        ({"image": IMAGE, "label": LABEL}, ("image", "image"), "Image"),
    ],
)
def test_other_features_are_refused_before_the_download(tmp_path, monkeypatch, features, keys, found):
    register(monkeypatch, features, keys=None if keys == "none" else keys or ("image", "label"))
    with pytest.raises(ValueError, match=r"^dataset: 'made_up' has .*; allowed: ") as raised:
        named.load_named("made_up", tmp_path)
    assert found in str(raised.value)
    assert prepared(tmp_path) == []


def test_images_of_several_sizes_need_one_before_the_download(tmp_path, monkeypatch):
    register(monkeypatch, {"image": tfds.features.Image(shape=(None, None, 3)), "label": LABEL})
    with pytest.raises(ValueError, match=r"^config.data.image_size=None: the images of 'made_up' have several sizes"):
        load("made_up", tmp_path)
    assert prepared(tmp_path) == []


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_several_sizes_are_brought_to_one(tmp_path, monkeypatch, channels):
    """As pictures of a folder are; those for training larger, for random crops; from the cache the second time."""
    made, _ = synthetic(TEST, (40, 40, channels), 4)
    made = [image[: 10 + 2 * index, : 40 - 2 * index] for index, image in enumerate(made)]
    register(
        monkeypatch,
        {"image": tfds.features.Image(shape=(None, None, channels)), "label": LABEL},
        lambda: ((i, {"image": made[i], "label": i % 4}) for i in range(TEST)),
    )
    options = {"image_size": (7, 14), "resized_crop": 0.3}
    data = load("made_up", tmp_path, print, **options)
    own = min(channels, 3)
    assert (data.image_shape, data.train.images.shape[1:]) == ((7, 14, own), (8, 16, own))
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    for split, size in ((data.test, (14, 7)), (data.train, (16, 8))):
        expected = []
        for image in made:
            picture = Image.fromarray(image.squeeze(), mode)
            if channels == 4:
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
            fitted = ImageOps.fit(picture, size, Image.Resampling.BICUBIC)
            expected.append(np.asarray(fitted).tobytes())
        assert sorted(image.tobytes() for image in split.images) == sorted(expected)
    monkeypatch.setattr(named, "_decode", lambda *arguments: pytest.fail("decoded again"))
    again = load("made_up", tmp_path, print, **options)
    np.testing.assert_array_equal(again.train.images, data.train.images)


def test_rectangles_of_one_size_stay_what_they_are(tmp_path, monkeypatch):
    images, labels = synthetic(TEST, (8, 11, 3), 4)
    register(
        monkeypatch,
        {"image": tfds.features.Image(shape=(8, 11, 3)), "label": LABEL},
        lambda: ((i, {"image": images[i], "label": int(labels[i])}) for i in range(TEST)),
    )
    assert_loaded(named.load_named("made_up", tmp_path), {"train": (images, labels), "test": (images, labels)}, 4)
    assert load("made_up", tmp_path).image_shape == (8, 11, 3)
    assert load("made_up", tmp_path, image_size=4).image_shape == (4, 4, 3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_each_number_of_channels(tmp_path, monkeypatch, channels):
    images, labels = synthetic(TEST, (8, 8, channels), 4)
    register(
        monkeypatch,
        {"image": tfds.features.Image(shape=(8, 8, channels)), "label": LABEL},
        lambda: ((i, {"image": images[i], "label": int(labels[i])}) for i in range(TEST)),
    )
    assert_loaded(named.load_named("made_up", tmp_path), {"train": (images, labels), "test": (images, labels)}, 4)


def test_a_set_prepared_by_a_builder_of_ones_own_is_read_by_its_name(tmp_path, monkeypatch, asked_hosts):
    """Where the builder's code is not; its classes have the names that it gave them."""
    images, labels = synthetic(TEST, (8, 8, 3), 3)
    label = tfds.features.ClassLabel(names=["cat", "dog", "zebra"])
    with monkeypatch.context() as patch:
        examples = [(i, {"image": images[i], "label": int(labels[i])}) for i in range(TEST)]
        register(patch, {"image": IMAGE, "label": label}, lambda: examples)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "other_cache"))
        named.load_named("made_up", tmp_path / "data")
    assert "made_up" not in tfds.list_builders(with_community_datasets=False)
    for name in ("made_up", "made_up:1.0.0"):
        loaded = named.load_named(name, tmp_path / "data")
        assert_loaded(loaded, {"train": (images, labels), "test": (images, labels)}, 3)
        assert loaded[1] == ("cat", "dog", "zebra")
    assert load("made_up", tmp_path / "data").class_names == ("cat", "dog", "zebra")
    with pytest.raises(ValueError, match="'made_up' is not known; .* the name of a set prepared in data_dir"):
        named.load_named("made_up", tmp_path / "nothing")
    assert asked_hosts == []


def test_more_than_the_memory_is_refused_before_it_is_taken(tmp_path, cifar10, monkeypatch):
    monkeypatch.setattr("lipjax.data.dataset.available_on_host", lambda: (TRAIN + TEST) * 3072 - 1)
    forbid_decoding(monkeypatch)
    with pytest.raises(DataError, match="cifar10 in .*: need 129 kB of memory, 129 kB are available"):
        named.load_named("cifar10", tmp_path)


def test_large_split_is_shuffled_through_files_even_if_few_may_be_open(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    images, labels = synthetic(TRAIN, (8, 8, 3), 4)
    register(
        monkeypatch,
        {"image": IMAGE, "label": LABEL},
        lambda: ((i, {"image": images[i], "label": int(labels[i])}) for i in range(TRAIN)),
    )
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 0)
    tfds.list_builders(with_community_datasets=False)  # imports modules, while files may still be opened
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + TRAIN // 2, limits[1]))
    try:
        loaded = named.load_named("made_up", tmp_path)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > lowest_free + TRAIN // 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert_loaded(loaded, {"train": (images, labels), "test": (images, labels)}, 4)


def test_full_disk_is_named_as_the_cause(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    register(monkeypatch, {"image": IMAGE, "label": LABEL}, made_up_example())
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 0)
    monkeypatch.setattr(without_tensorflow, "_open", lambda name, mode: Full())
    with pytest.raises(RuntimeError, match="preparing it there failed: .*No space left on device") as raised:
        named.load_named("made_up", tmp_path)
    assert "TensorFlow, which" not in str(raised.value)
    assert prepared(tmp_path) == []


def made_up_example(label: int = 1):
    return lambda: iter([(0, {"image": np.zeros((8, 8, 3), np.uint8), "label": label})])


def test_validation_stands_for_a_missing_test_split(tmp_path, monkeypatch):
    register(monkeypatch, {"image": IMAGE, "label": LABEL}, made_up_example(), splits=("train", "validation"))
    assert named.load_named("made_up", tmp_path)[0]["test"][1].tolist() == [1]


def test_missing_splits_are_refused(tmp_path, monkeypatch):
    register(monkeypatch, {"image": IMAGE, "label": LABEL}, made_up_example(), splits=("train", "extra"))
    with pytest.raises(ValueError, match=r"dataset: 'made_up' has the splits \['extra', 'train'\]; needed: 'train'"):
        named.load_named("made_up", tmp_path)


def test_unlabelled_images_are_refused(tmp_path, monkeypatch):
    register(monkeypatch, {"image": IMAGE, "label": LABEL}, made_up_example(-1))
    with pytest.raises(ValueError, match=r"dataset: 'made_up/1.0.0', split 'train', has labels -1..-1; allowed: 0..3"):
        named.load_named("made_up", tmp_path)


def test_image_of_another_size_is_refused(tmp_path, monkeypatch):
    with without_tensorflow.without_tensorflow():
        small = lazy_imports_utils.tensorflow.image.encode_png(np.zeros((1, 1, 3), np.uint8)).numpy()
    register(monkeypatch, {"image": IMAGE, "label": LABEL}, lambda: iter([(0, {"image": small, "label": 0})]))
    with pytest.raises(RuntimeError, match=r"cannot be read: .*shape \(1, 1, 3\), expected \(8, 8, 3\)"):
        named.load_named("made_up", tmp_path)


@pytest.mark.parametrize("where", ["generator", "import"])
def test_preparation_that_needs_tensorflow_says_so(tmp_path, monkeypatch, where):
    def generate():
        if where == "import":
            import tensorflow  # noqa: F401  # type: ignore[import]
        yield 0, {"image": lazy_imports_utils.tensorflow.io.decode_raw(b""), "label": 0}

    register(monkeypatch, {"image": IMAGE, "label": LABEL}, generate)
    with pytest.raises(RuntimeError, match=r"data_dir: .*'made_up'.*needs TensorFlow.*set data_dir") as raised:
        named.load_named("made_up", tmp_path)
    assert ("tensorflow.io.decode_raw" if where == "generator" else "No module named 'tensorflow'") in str(raised.value)
    assert prepared(tmp_path) == []


def test_stand_in_restores_everything_after_an_error():
    before = dict(vars(lazy_imports_utils.tensorflow))
    with pytest.raises(KeyError), without_tensorflow.without_tensorflow():
        assert lazy_imports_utils.tensorflow.executing_eagerly()
        assert not hasattr(lazy_imports_utils.tensorflow, "data")
        assert "tensorflow" not in sys.modules
        raise KeyError
    assert vars(lazy_imports_utils.tensorflow) == before


def test_stand_in_is_not_used_where_tensorflow_is_installed(monkeypatch):
    monkeypatch.setattr(without_tensorflow, "tensorflow_is_installed", lambda: True)
    with without_tensorflow.without_tensorflow():
        assert "_module" not in vars(lazy_imports_utils.tensorflow)


def test_stand_in_files(tmp_path):
    path = tmp_path / "file"
    with without_tensorflow.without_tensorflow():
        gfile = lazy_imports_utils.tensorflow.io.gfile
        with gfile.GFile(path, "w") as file:
            file.write("a\r\nb")
        with gfile.GFile(path) as file:
            assert file.read() == "a\r\nb"
        assert gfile.exists(path)
        assert gfile.isdir(tmp_path)
        assert gfile.listdir(tmp_path) == ["file"]
        with pytest.raises(FileExistsError):
            gfile.copy(path, path)
        gfile.remove(path)
        assert not gfile.exists(path)


@needs_real_data
def test_real_cifar10_pixels_are_those_of_stock():
    builder = named._find_prepared("cifar10", str(REAL))
    task = named._task("cifar10", builder.info)
    images, labels = named._decode(builder, "test[:20]", task, None)
    stock = list(tfds.builder("cifar10", data_dir=REAL, file_format="array_record").as_data_source("test[:20]"))
    np.testing.assert_array_equal(images, np.stack([example["image"] for example in stock]))
    np.testing.assert_array_equal(labels, [example["label"] for example in stock])


@needs_real_data
@pytest.mark.slow
def test_real_cifar10_is_loaded(monkeypatch):
    splits, class_names = named.load_named("cifar10", REAL)
    assert class_names[:2] == ("airplane", "automobile")
    assert len(class_names) == 10
    assert [splits[split][0].shape for split in ("train", "test")] == [(50000, 32, 32, 3), (10000, 32, 32, 3)]
    assert np.bincount(splits["train"][1]).tolist() == [5000] * 10
    assert np.bincount(splits["test"][1]).tolist() == [1000] * 10
    forbid_decoding(monkeypatch)
    again, _ = named.load_named("cifar10", REAL)
    np.testing.assert_array_equal(again["test"][0], splits["test"][0])
