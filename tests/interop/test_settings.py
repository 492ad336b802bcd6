"""Settings: of each program those that its reader takes, each of its kind; what is none is named and never ignored."""

import inspect

import numpy as np
import pytest
from programs import CASES

from lipjax.interop import PROGRAMS, network_of
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
    "neck_conv_type": (2,),
    "neck_linear_type": (False,),
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
                with pytest.raises(ValueError, match=f"^{like}: {name}=.*: must be {ALLOWED[name][0][:10]}"):
                    settings_of(like, PROGRAMS[like], given, kept)


def test_what_is_given_counts_before_what_the_file_keeps_and_none_is_nothing():
    read, kept = PROGRAMS["soc"], {"mean": [0.1, 0.2, 0.3], "std": 2.0, "epochs": 3}
    assert settings_of("soc", read, {}, kept) == {"mean": (0.1, 0.2, 0.3), "std": 2.0}
    assert settings_of("soc", read, {"std": 1, "mean": None}, kept) == {"mean": (0.1, 0.2, 0.3), "std": 1}
    assert settings_of("soc", read, {"mean": np.array([0.5, 0.25])}, {}) == {"mean": (0.5, 0.25)}


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
