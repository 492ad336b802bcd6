"""By how much the Lipschitz bound that training works with is below the proven one, at the end of a training.

    python benchmarks/estimated_bound.py --pretrained=cifar10-small,cifar100-small
    python benchmarks/estimated_bound.py --workdir=runs/x

Prints for each network `Classifier.estimated_bound` of the variables as they were trained, the proven bound, and their
ratio.  No image is read.
"""

from absl import app, flags

from lipjax import prove, released
from lipjax.system import printed
from lipjax.workdir import load_trained

PRETRAINED = flags.DEFINE_list("pretrained", [], "Released networks.")
WORKDIR = flags.DEFINE_list("workdir", [], "Folders of trainings.")


def main(argv):
    """A line each."""
    del argv
    networks = {name: released.read(name) for name in PRETRAINED.value}
    found = {name: (network.model, network.variables) for name, network in networks.items()}
    trained = {place: load_trained(place) for place in WORKDIR.value}
    found |= {place: (network.model, network.saved) for place, network in trained.items()}
    for name, (model, variables) in found.items():
        estimated = float(model.estimated_bound(variables))
        proven = prove(model, model.tightened(variables)).lipschitz_bound
        above = 100 * (proven / estimated - 1)
        print(f"{name}: estimated {estimated:.5f}, proven {printed.upper(proven, '.5f')}, {above:.1f} % above")


if __name__ == "__main__":
    app.run(main)
