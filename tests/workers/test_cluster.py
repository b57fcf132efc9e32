"""TF_CONFIG: what it says, and what is said of a wrong one."""

import json

import pytest

from cct_tf.errors import UserError
from cct_tf.settings import config
from cct_tf.workers import cluster


def environment(jobs, task="worker", index=0):
    return {"TF_CONFIG": json.dumps({"cluster": jobs, "task": {"type": task, "index": index}})}


def test_the_workers_and_which_of_them_this_is():
    found = cluster.from_environment("auto", environment({"worker": ["a:1", "[::1]:2"]}, index=1))
    assert (found.workers, found.index, found.num_workers, found.is_chief) == (("a:1", "[::1]:2"), 1, 2, False)
    assert (found.name(1), found.port, found.address(1)) == ("worker 1 ([::1]:2)", 2, ("::1", 2))


def test_a_chief_is_worker_0_before_the_others():
    jobs = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
    assert cluster.from_environment("multi_worker", environment(jobs, "chief")).index == 0
    found = cluster.from_environment("multi_worker", environment(jobs, "worker", 1))
    assert (found.workers, found.index) == (("a:1", "b:1", "c:1"), 2)


@pytest.mark.parametrize("environ", [{}, {"TF_CONFIG": ""}, {"TF_CONFIG": "{}"}, environment({"worker": ["a:1"]})])
def test_without_others_there_is_no_cluster(environ):
    assert cluster.from_environment("auto", environ) is None


TWO = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(("environ", "found"), [
    ({"TF_CONFIG": "{'cluster'"}, "expected JSON such as"),
    ({"TF_CONFIG": "[]"}, "expected an object such as"),
    (environment(TWO, index=2), "expected a task index from 0 to 1, the 2 addresses of worker, found 2"),
    (environment(TWO, index=-1), "found -1"),
    (environment(TWO, index="0"), 'found {"type": "worker", "index": "0"}'),
    (environment(TWO, task="chief"), "expected a task with a type (worker) and an index"),
    ({"TF_CONFIG": json.dumps({"cluster": TWO})}, "found null"),
    (environment({"chief": ["a:1", "b:1"]}, "chief"), "expected one chief, found 2: a:1, b:1"),
    (environment({"worker": ["a:1", "a:1"]}), "found a:1 twice"),
    (environment({"worker": ["a:1"], "ps": ["b:1"]}), "found 'ps'"),
    (environment({"worker": "a:1"}), "expected a list of host:port as worker, found 'a:1'"),
    (environment({"worker": ["a", "b:1"]}), "expected host:port with a port from 1 to 65535, found 'a'"),
    (environment({"worker": ["a:70000", "b:1"]}), "found 'a:70000'"),
    (environment({"worker": [7, "b:1"]}), "found 7")])
def test_a_wrong_one_is_named(environ, found):
    with pytest.raises(UserError) as raised:
        cluster.from_environment("auto", environ)
    assert str(raised.value).startswith("TF_CONFIG: expected") and found in str(raised.value)


def test_the_strategy_goes_with_it():
    with pytest.raises(UserError, match="--strategy: expected TF_CONFIG in the environment"):
        cluster.from_environment("multi_worker", {})
    with pytest.raises(UserError, match="expected auto or multi_worker where .* names 2 workers, found mirrored"):
        cluster.from_environment("mirrored", environment(TWO))


@pytest.mark.parametrize(("changes", "found"), [
    ({"batch_size": 10}, r"expected a multiple of replicas x accumulate_steps \(4 x 1\), found 10"),
    ({"batch_size": 24, "num_replicas": 2, "accumulate_steps": 2}, r"\(8 x 2\), found 24"),
    ({"batch_size": 12, "mixup_alpha": 0.8}, "an even number of images for each worker .*found 12 for 4 workers")])
def test_the_batch_must_be_shared_out_among_the_workers(changes, found):
    four = cluster.Cluster(("a:1", "b:1", "c:1", "d:1"), 0)
    with pytest.raises(UserError, match=found):
        cluster.check(config.from_dict(changes), four)
    cluster.check(config.from_dict(changes), None)
    cluster.check(config.from_dict(changes | {"batch_size": 32}), four)
