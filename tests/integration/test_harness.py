"""What the tests share must not let one of them disturb another."""

import itertools

import harness
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 64))
def test_no_port_is_given_to_two_processes_that_run_tests(workers: int) -> None:
    shares = [harness.own_ports(f"gw{number}", workers) for number in range(workers)]
    given_out = sorted(itertools.chain.from_iterable(shares))
    assert given_out == list(harness.PORTS)


def test_a_port_that_nobody_listens_on_yet_is_not_given_again() -> None:
    ports = [harness.free_port() for _ in range(50)]
    assert len(set(ports)) == len(ports)
