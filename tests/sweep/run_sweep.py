"""`cct_tf.sweep` with the training of tests/sweep/fake_training.py, as a process of its own."""

from cct_tf.sweep import __main__ as sweep
from cct_tf.sweep import search, training

training.TRAIN = training.EVALUATE = ("-m", "tests.sweep.fake_training")
training._POLL_SECONDS = training._PAUSE_SECONDS = search._POLL_SECONDS = 0.02

if __name__ == "__main__":
    sweep.run()
