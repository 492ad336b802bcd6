"""Settings: of each program those that its reader takes, each of its kind; what is none is named and never ignored."""

import inspect
import re

import numpy as np
import pytest
from programs import CASES

from lipjax.interop import PROGRAMS, files, network_of
from lipjax.interop.settings import ALLOWED, settings_of

_WRONG = {
    "mean": ("0.5", (), [0.5, None], np.nan, True, {}),
    "std": (0.0, -1, [1.0, 0.0], np.inf),
    "num_classes": (1, 10.0, "10", True, [10]),
    "image_shape": (5, [32, 32], (32, 32, 0), "323", [8, 8, 3.0]),
    "layers": ("0", {"weights": "0"}, [], ["0"]),
    "act_name": (1, []),
    "use_lln": ("False", 0),
    "backbone_type": (2,),
    "backbone_zero_padding": (1, "no"),
    "backbone_quasi_residual": (1.0,),
    "neck_conv_type": (2, "nonsense", ""),
    "neck_linear_type": (False, "svd"),
    "neck_conv_patch_size": (-1, 4.0, (4, 4)),
    "neck_conv_patch_size_2": ("4",),
}


def _takes(like):
    return list(inspect.signature(PROGRAMS[like]).parameters)[1:]


def test_each_setting_of_each_program_has_its_rule_and_defaults_keep_it():
    assert {name for like in PROGRAMS for name in _takes(like)} == set(ALLOWED) == set(_WRONG)
    for like, read in PROGRAMS.items():
        for name, parameter in list(inspect.signature(read).parameters.items())[1:]:
            assert parameter.default is None or ALLOWED[name][1](parameter.default), (like, name)


@pytest.mark.parametrize("like", PROGRAMS)
def test_what_is_no_setting_or_no_value_of_one_is_named(like):
    for name in ("maen", "path", "like", "state"):
        with pytest.raises(ValueError, match=f"{like}: {name}=1: unknown setting; there are {', '.join(_takes(like))}"):
            settings_of(like, PROGRAMS[like], {name: 1}, {})
    for name in _takes(like):
        for value in _WRONG[name]:
            for given, kept in (({name: value}, {}), ({}, {name: value})):
                with pytest.raises(
                    ValueError, match=rf"^{like}: {name}=.*: must be {re.escape(ALLOWED[name][0][:10])}"
                ):
                    settings_of(like, PROGRAMS[like], given, kept)


def test_what_is_given_counts_before_what_the_file_keeps_and_none_is_nothing():
    read, kept = PROGRAMS["soc"], {"mean": [0.1, 0.2, 0.3], "std": 2.0, "epochs": 3}
    assert settings_of("soc", read, {}, kept) == {"mean": (0.1, 0.2, 0.3), "std": 2.0}
    assert settings_of("soc", read, {"std": 1, "mean": None}, kept) == {"mean": (0.1, 0.2, 0.3), "std": 1}
    assert settings_of("soc", read, {"mean": np.array([0.5, 0.25])}, {}) == {"mean": (0.5, 0.25)}
    assert settings_of("soc", read, {"mean": np.array(0.5)}, {}) == {"mean": 0.5}


def test_a_file_is_read_with_its_settings_and_no_others(tmp_path):
    case = CASES["sll"](np.random.default_rng(0))
    np.savez(tmp_path / "net.npz", **case.state)
    means = [
        network_of(tmp_path / "net.npz", "sll", given).model.backbone.layers[0][1].mean
        for given in ({}, {"mean": 0.25})
    ]
    assert means[0] != means[1] == (0.25,)
    with pytest.raises(ValueError, match="sll: maen=0.5: unknown setting; there are mean"):
        network_of(tmp_path / "net.npz", "sll", {"maen": 0.5})
    with pytest.raises(ValueError, match="sll: path=1: unknown setting"):
        network_of(tmp_path / "net.npz", "sll", {"path": 1})


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"std": 0.2}, None),
        ({"std": [0.2, 0.2, 0.2]}, None),
        ({"data": {"std": [0.2, 0.2, 0.2]}, "again": {"std": [0.2, 0.2, 0.2]}}, None),
        (
            {"data": {"std": 0.2}, "init": {"std": 1.0}},
            r"cpl: std=\{'data.std': 0.2, 'init.std': 1.0\}: must be a positive",
        ),
        ({"std": "0.2"}, "cpl: std='0.2': must be a positive number"),
    ],
)
def test_what_a_file_keeps_counts_whole_or_is_refused(tmp_path, monkeypatch, kept, message):
    """Pixels over 0.2: five times the Lipschitz constant, however the file says it."""
    content = {"state_dict": CASES["cpl"](np.random.default_rng(0)).state, "configs": kept}
    monkeypatch.setitem(files._READERS, ".pth", lambda path: content)
    (tmp_path / "net.pth").touch()
    if message:
        with pytest.raises(ValueError, match=message):
            network_of(tmp_path / "net.pth", "cpl", {})
        assert network_of(tmp_path / "net.pth", "cpl", {"std": 0.2}).claim.constants()[0] == pytest.approx(5)
    else:
        found = network_of(tmp_path / "net.pth", "cpl", {})
        assert np.ravel(found.model.backbone.layers[0][1].std).tolist() in ([0.2], [0.2] * 3)
        assert found.claim.constants()[0] == pytest.approx(5)


def test_classes_that_the_rows_do_not_have_are_refused():
    case = CASES["cpl"](np.random.default_rng(0))
    rows = len(case.state["model.last_last.weight"])
    assert PROGRAMS["cpl"](case.state, num_classes=rows).model.num_outputs() == rows
    with pytest.raises(ValueError, match=f"cpl: num_classes={rows + 1}: the last layer has {rows} rows"):
        PROGRAMS["cpl"](case.state, num_classes=rows + 1)


def test_a_neck_of_another_kind_than_its_shape_is_refused():
    state = CASES["bronet"](np.random.default_rng(0)).state
    for name in ("neck_conv_type", "neck_linear_type"):
        PROGRAMS["bronet"](state, **{name: "Cholesky"})
        with pytest.raises(ValueError, match="bronet: 'neck.* must have the shape"):
            PROGRAMS["bronet"](state, **{name: "bro"})


def test_kernels_of_even_side_are_refused():
    case = CASES["aol, patchwise"](np.random.default_rng(0))
    name = next(name for name, array in case.state.items() if array.ndim == 4)
    even = {
        **case.state,
        name: case.state[name][:-1, :-1] if len(case.state[name]) > 1 else np.tile(case.state[name], (2, 2, 1, 1)),
    }
    with pytest.raises(ValueError, match="only odd sides are read"):
        PROGRAMS["aol"](even, **case.settings)
