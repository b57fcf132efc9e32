"""What stands in for something has the same methods: the loop needs not know which of the two it has."""

import inspect

import pytest

from cct_tf.training.summaries import NoSummaries, Recorder, Summaries
from cct_tf.workers.peers import Alone, Group, Peers


def _methods(kind):
    return {name: inspect.signature(method) for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")}


@pytest.mark.parametrize(("interface", "kinds"), [(Recorder, (Summaries, NoSummaries)), (Group, (Alone,))])
def test_they_have_the_methods_of_their_interface_and_no_others(interface, kinds):
    for kind in kinds:
        assert issubclass(kind, interface) and _methods(kind) == _methods(interface)


def test_peers_have_those_of_a_group_and_more_for_those_who_start_and_end_a_run():
    assert issubclass(Peers, Group) and _methods(Peers).items() > _methods(Group).items()


@pytest.mark.parametrize("interface", [Recorder, Group])
def test_every_method_of_an_interface_says_what_it_does(interface):
    methods = inspect.getmembers(interface, inspect.isfunction)
    assert methods and all(method.__doc__ for _, method in methods)


def test_alone_a_worker_is_the_chief_and_hears_itself():
    alone, value = Alone(), {"step": (1, 2)}
    assert (alone.index, alone.num_workers, alone.is_chief) == (0, 1, True)
    assert alone.exchange(value) == [value] and alone.exchange_bytes(b"x") == [b"x"]
