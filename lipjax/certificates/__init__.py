"""Features and head weights → `Certificate`, in numpy float64.  No Flax; jaxopt in `dual_solver` alone."""

from lipjax.certificates.certificate import Certificate
from lipjax.certificates.crc import certify_crc
from lipjax.certificates.lln import certify_linear, certify_lln

__all__ = ["Certificate", "certify_crc", "certify_linear", "certify_lln"]
