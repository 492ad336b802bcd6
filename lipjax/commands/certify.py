"""lipjax-certify, and certify.py: certifies a trained network on a split of its data."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from absl import flags

from lipjax.commands import command
from lipjax.commands.help import page
from lipjax.config import default_config
from lipjax.evaluation.asked import ATTACKS, SPLITS, Asked
from lipjax.evaluation.attack import CertificateViolated
from lipjax.evaluation.audit import audit
from lipjax.evaluation.single_images import certify_files
from lipjax.evaluation.split import certify_run
from lipjax.evaluation.verify import NotVerified, compare_with_card, verify_run
from lipjax.interop import PROGRAMS
from lipjax.models import program
from lipjax.models.pgd import DOMAINS
from lipjax.released import card_of, unpack
from lipjax.released import names as released_names
from lipjax.system.devices import check_backend
from lipjax.training.recipe import Recipe
from lipjax.workdir import CONFIG_FILE, folder_of, read_config, sectioned

ABOUT = """
    {name} --workdir=DIR [--attack=fast --split=test --num_examples=N --radii=36/255,0.5]
    {name} --workdir=DIR --images=a.png,b.png
    {name} --pretrained=NAME [--data_dir=DIR …]
    {name} --weights=FILE --like=PROGRAM --dataset=NAME [--data_dir=DIR --output=DIR --attack=fast]

    Certifies a trained classifier, and writes DIR/certificates/. The same command goes on where it was stopped; Ctrl-C
    exits with code 75. The config is that of the run. Of a network of another program it says what is proven, beside
    what that program claims (docs/interop.md).
"""

# What --images does not take, as it is of a whole split, and --verify, as it is that of the summary.
_OF_SPLITS = ("num_examples", "attack", "attack_domain", "precisions", "paper_protocol", "radii")
_OF_TRAININGS = ("trust_code", "precision", "precisions", "paper_protocol")
_NOT_WITH = {
    "weights": ("is of a training of ours", ("workdir", "pretrained", "images", "verify", "split", *_OF_TRAININGS)),
    "images": ("is of a whole split", ("data_dir", "split", "verify", *_OF_SPLITS)),
    "verify": ("is that of the summary", ("precision", "float_slack", "batch_size", *_OF_SPLITS)),
}


def main(given: command.Given = None) -> int:
    """The command with these arguments, None: those of the process; its exit code."""
    name = "certify.py" if Path(sys.argv[0]).name == "certify.py" else "lipjax-certify"
    return command.run(name, lambda: _certify(name, command.arguments(given)), [CertificateViolated, NotVerified])


def _certify(name: str, given: list[str]) -> None:
    own = _flags()
    command.parsed(own, given)
    value: dict[str, Any] = own.flag_values_dict()
    released = value["pretrained"]
    place = value["workdir"] or (released and f"runs/{released}")
    workdir = None if place is None else folder_of(place)
    if value["help"]:
        of, config = "the default", default_config()
        if workdir is not None:
            is_run = released is None or (workdir / CONFIG_FILE).exists()
            config = read_config(workdir) if is_run else sectioned(card_of(released)["config"])
            of = str(workdir) if is_run else released
        print(page(ABOUT.format(name=name), own, Recipe.of(config).whole(), of))
        return
    if value["weights"] is not None:
        _audit(own, value)
        return
    if workdir is None:
        raise flags.Error("workdir is missing: --workdir=DIR, the folder of a training, or --pretrained; see --help")
    check_backend()
    if released is not None:
        unpack(released, workdir)
    if value["images"] is not None:
        _check_alone(own, "images")
        names = ("images", "batch_size", "float_slack", "trust_code", "precision")
        certify_files(workdir, **{name: value[name] for name in names})
        return
    if value["verify"]:
        _check_alone(own, "verify")
        verify_run(workdir, value["data_dir"], value["split"], trust_code=value["trust_code"])
        return
    asked = {field.name: value[field.name] for field in dataclasses.fields(Asked)}
    summary = certify_run(workdir, value["data_dir"], trust_code=value["trust_code"], **asked)
    if released is not None:
        print(compare_with_card(card_of(released), summary))


def _audit(own: flags.FlagValues, value: dict[str, Any]) -> None:
    _check_alone(own, "weights")
    for name in ("like", "dataset"):
        if value[name] is None:
            raise flags.Error(f"{name} is missing: --weights=FILE goes with --like=PROGRAM and --dataset=NAME")
    check_backend()
    names = ("data_dir", "output", "num_examples", "radii", "batch_size", "attack", "attack_domain", "float_slack")
    given = {name: value[name] for name in names}
    audit(value["weights"], value["like"], value["dataset"], settings=_settings(value["settings"]), **given)


def _settings(text: str | None) -> dict[str, Any]:
    """Of JSON, or of a file of it."""
    try:
        is_file = text is not None and text.endswith(".json")
        found = json.loads(Path(str(text)).read_text(encoding="utf-8") if is_file else text or "{}")
    except ValueError as error:
        raise ValueError(f'settings={text!r}: must be JSON, such as {{"mean": 0.5}} ({error})') from error
    if not isinstance(found, dict):
        raise ValueError(f'settings={text!r}: must be a JSON object, such as {{"mean": 0.5}}')
    return found


def _check_alone(own: flags.FlagValues, flag: str) -> None:
    reason, others = _NOT_WITH[flag]
    for name in others:
        if own[name].present:
            raise ValueError(f"--{name}: {reason}; it cannot go with --{flag}")


def _flags() -> flags.FlagValues:
    own = command.own_flags()

    def text(name, about):
        flags.DEFINE_string(name, None, about, flag_values=own)

    def choice(name, default, allowed, about):
        flags.DEFINE_enum(name, default, allowed, about, flag_values=own)

    def switch(name, about):
        flags.DEFINE_bool(name, False, about, flag_values=own)

    text("workdir", "Folder of a training.")
    text(
        "pretrained", "A released network, unpacked to --workdir, or to runs/NAME: " + ", ".join(released_names()) + "."
    )
    text("images", "Certify these files instead: a.png,b.png, a folder, or a pattern.")
    text("weights", "A file of weights of another program: .pth, .safetensors or .npz.")
    choice("like", None, list(PROGRAMS), "Which program the weights are of.")
    text("dataset", "On whose test images: config.data.name of a training.")
    text("output", "With weights: where certificates/ is written; by default beside the file, under its name.")
    text("settings", 'With weights: what the file does not say, JSON such as {"mean": 0.5}, or a .json file of it.')
    text("data_dir", "Where the data is, if not where training read it.")
    text("radii", "Such as 36/255,0.5 (l2, pixels in [0, 1]); where not given, those of the config.")
    choice("split", "test", SPLITS, "Which images; validation: held out of training; train: the rest.")
    flags.DEFINE_integer("num_examples", None, "Certify only the first so many images.", flag_values=own)
    about = "Images at a time; fewer need less memory."
    flags.DEFINE_integer("batch_size", program.BATCH_SIZE, about, flag_values=own)
    choice("attack", "none", ATTACKS, "Attack the images too: fast 10 steps, strong 50 steps × 5 starts.")
    choice("attack_domain", "images", DOMAINS, "What the attack may reach: images (pixels in [0, 1]), or all of space.")
    about = "An error of the features, in l2, that certificates shall cover."
    flags.DEFINE_float("float_slack", 0.0, about, flag_values=own)
    switch("precisions", "Measure float32 and bfloat16 features against float64 ones.")
    about = "Print also what the paper's protocol gives: layers taken as 1-Lipschitz, 9 rivals; no proof."
    switch("paper_protocol", about)
    about = "float32: certify the float32 program too, less its rounding."
    choice("precision", "float64", program.PRECISIONS, about)
    switch("verify", "Certify again what is in the workdir, and compare; writes nothing.")
    switch("trust_code", "Execute the Python file in the workdir that makes its network.")
    return own
