"""The process behind `comparison.KerasSide`: a task as JSON on stdin, then a line of seconds for each measurement."""

import json
import os
import sys

from cct_tf import sizes
from cct_tf.benchmark import measuring
from cct_tf.machine import runtime
from cct_tf.models.variants import Variant

_WARM_UP = 2  # steps: the first traces


def _trainer(task):
    """(model, function that trains a step and returns the images)."""
    import keras
    import tensorflow as tf

    from cct_tf.benchmark import keras_network
    keras.config.set_dtype_policy(task["policy"])
    variant, classes, batch = Variant(**task["variant"]), task["num_classes"], task["batch_size"]
    model = keras_network.build(variant, classes)
    keras_network.compile_for(model, task["optim"], task["jit"])
    images = tf.random.stateless_normal([batch, *sizes.sides(variant.image_size), variant.channels], [0, 0])
    labels = tf.one_hot(tf.range(batch) % classes, classes)

    def advance():
        model.train_on_batch(images, labels)  # returns the loss as a number, so it waits for the device
        return batch

    return model, advance


def main():
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not be taken for an answer
    task = json.loads(sys.stdin.readline())
    runtime.check_backend()  # and nothing else of `start_tensorflow`, whose settings are part of what is compared
    model, advance = _trainer(task)
    for _ in range(_WARM_UP):
        advance()
    parameters = sum(int(variable.value.shape.num_elements()) for variable in model.trainable_variables)
    print(json.dumps([parameters, model.layers[-2].compute_dtype]), file=answers, flush=True)
    for line in sys.stdin:
        print(measuring.rate(advance, json.loads(line)), file=answers, flush=True)


if __name__ == "__main__":
    main()
