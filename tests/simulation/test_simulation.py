"""The whole processor, simulated by seeds: what it comes to is what it has to.

A seed that fails is run again by `SIMULATION_SEED=n pytest -n0 tests/simulation -k one_seed`, many
by `python tests/simulation/run.py --seeds 0-9999`.
"""

import os

import pytest
from simulate import simulate

SEEDS_EACH = 25


@pytest.mark.parametrize("first", range(0, 300, SEEDS_EACH))
def test_whatever_befalls_it_the_report_is_that_of_the_oracle(first):
    """Crashes, rotation, failing statements and files, lost commits, rewinds and duels."""
    crashes = 0
    for seed in range(first, first + SEEDS_EACH):
        print("seed", seed)
        crashes += simulate(seed)["crashes"]
    assert crashes > SEEDS_EACH, "too few crashes to prove anything"


@pytest.mark.skipif("SIMULATION_SEED" not in os.environ, reason="runs the seed SIMULATION_SEED")
def test_one_seed():
    """The seed of a failure fails again."""
    print(simulate(int(os.environ["SIMULATION_SEED"])))


def test_a_seed_makes_the_same_run_each_time():
    """Whatever fails can be looked at again."""
    assert simulate(7) == simulate(7)
