"""Batches over several devices, here eight virtual ones on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import lipjax
from lipjax.workdir import load_trained

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, sys
import jax, numpy as np
import lipjax
from lipjax.models import pgd
from lipjax.system.devices import over_devices, padded_to_devices
assert jax.device_count() == 8
assert [padded_to_devices(count) for count in (1, 8, 9, 500)] == [8, 8, 16, 504]
assert len(over_devices(np.zeros((16, 2))).sharding.device_set) == 8
assert len(over_devices(np.zeros((15, 2))).sharding.device_set) == 1
trained = lipjax.load_trained(sys.argv[1])
dataset, model, variables = trained.dataset(), trained.model, trained.variables
images, labels = dataset.test.images[:24].astype("float32") / 16, dataset.test.labels[:24]
certificate = lipjax.certify(model, variables, images, labels)
limits = pgd.limits_of("images", images.shape[1:])
proven, key = lipjax.prove(model, variables), jax.random.key(0)
attack = pgd.l2_attack(proven, images, labels, np.full(24, 0.1), key, 2, 1, limits)
print(json.dumps([certificate.radius.tolist(), attack.margins.tolist()]))
"""


def test_certification_and_attack_on_eight_devices(trained):
    import jax

    from lipjax.models import pgd

    flags = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SCRIPT, str(trained[0])]
    output = subprocess.run(command, cwd=ROOT, env=flags, capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    radius, margins = json.loads(output.stdout.splitlines()[-1])
    found = load_trained(trained[0])
    dataset, model, variables = found.dataset(), found.model, found.variables
    images, labels = dataset.test.images[:24].astype("float32") / 16, dataset.test.labels[:24]
    certificate = lipjax.certify(model, variables, images, labels)
    limits, key = pgd.limits_of("images", images.shape[1:]), jax.random.key(0)
    attack = pgd.l2_attack(lipjax.prove(model, variables), images, labels, np.full(24, 0.1), key, 2, 1, limits)
    # float32 sums in another order.
    np.testing.assert_allclose(radius, certificate.radius, rtol=0, atol=1e-6)
    np.testing.assert_allclose(margins, attack.margins, rtol=0, atol=1e-4)
