"""A printed bound is a bound."""

from decimal import Decimal

import numpy as np
import pytest

from lipjax.system import printed

NUMBERS = [0.0, 1.0, 2.8571429058, 4.8949401897, 0.1, 0.99999999, 1e-300, 3.94e-12, 9.96e-12, 123456.789, 1e22, 0.00005]


@pytest.mark.parametrize("form", [".5f", ".4f", ".1e", ".6g", ".2g"])
def test_to_the_safe_side_and_no_further_than_a_unit_of_the_last_digit(form):
    numbers = [*NUMBERS, *np.exp(np.random.default_rng(0).normal(scale=5, size=300)), *np.arange(0, 1, 0.037)]
    for number in map(float, numbers):
        above, below = printed.upper(number, form), printed.lower(number, form)
        assert Decimal(below) <= Decimal(number) <= Decimal(above)
        assert format(number, form) in (above, below)


def test_a_number_of_as_many_digits_is_printed_as_it_is():
    assert printed.upper(0.5, ".4f") == printed.lower(0.5, ".4f") == "0.5000"
    assert printed.upper(1.0, ".6g") == "1"
    assert printed.upper(2.8571429058, ".5f") == "2.85715"
    assert printed.lower(0.67478, ".4f") == "0.6747"


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_what_is_no_number_is_printed_as_it_is(number):
    assert printed.upper(number, ".4f") == printed.lower(number, ".4f") == str(number)
