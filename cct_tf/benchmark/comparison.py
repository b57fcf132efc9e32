"""The other side of a comparison: a process of its own that trains stock Keras layers. No TensorFlow here.

A process of its own keeps thread pools and memory apart, so that what is reported of ours is ours alone.
"""

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile

from cct_tf.errors import UserError

_LEAVING_SECONDS = 30
# What stock Keras training can't express: the field, and the only value it may have.
_STOCK = (("optimizer", "adamw"), ("loss", "cross_entropy"), ("class_weights", "none"), ("layer_decay", 1.0),
          ("ema_decay", 0.0), ("average_last", 0.0), ("cautious_weight_decay", False),
          ("corrected_weight_decay", False), ("qk_norm", False))


def check(config):
    """Refuse what has no counterpart in stock Keras.

    Args:
        config: `config.Config`.

    Raises:
        UserError: the first such flag.
    """
    for name, stock in _STOCK:
        found = config.value(name)
        if found != stock:
            raise UserError(f"--{name}: expected {stock} with --compare, which is what Keras' own training can do, "
                            f"found {found}")
    if (config.run.num_replicas or 1) > 1:
        raise UserError(f"--num_replicas: expected 1 with --compare, found {config.run.num_replicas}")


def check_parts(config):
    """Refuse what the parts of a step don't show. Raises UserError, as `check`."""
    if (config.run.num_replicas or 1) > 1:
        raise UserError(f"--num_replicas: expected 1 with --parts, found {config.run.num_replicas}")
    if config.run.strategy not in ("auto", "single"):
        raise UserError(f"--strategy: expected auto or single with --parts, found {config.run.strategy}")
    if config.run.recompute:
        raise UserError("--recompute: expected false with --parts, which times each part once, found true")


class KerasSide:
    """The same network of stock Keras layers, trained by the `train_step` of `model.fit` on one batch in memory.

    A context manager; call `measure` inside.

    Args:
        variant: `models.variants.Variant`.
        num_classes: int K.
        config: `config.Config`.
        jit: bool, compile with XLA.
        policy: name of the Keras dtype policy.

    Attributes:
        parameters: int, its trainable weights.
        precision: name of the type that its layers compute in, as that process says.
    """

    def __init__(self, variant, num_classes, config, jit, policy):
        self._task = {"variant": dataclasses.asdict(variant), "num_classes": num_classes,
                      "batch_size": config.optim.batch_size, "optim": dataclasses.asdict(config.optim), "jit": jit,
                      "policy": policy}

    def __enter__(self):
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen([sys.executable, "-m", "cct_tf.benchmark.keras_worker"], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)
        try:
            self.parameters, self.precision = self._ask(self._task)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.stdin.close()  # upon which it ends, and tidies up
            self._process.wait(_LEAVING_SECONDS)
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def measure(self, seconds):
        """Images/s over at least `seconds`."""
        return self._ask(seconds)

    def _ask(self, question):
        """One line of JSON there, one back."""
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"the process of the Keras layers ended: {self._errors.read()[-2000:]}")
        return json.loads(answer)
