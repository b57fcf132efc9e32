"""A network of a user's own that --model names: `./mine.py:build` or `package.module:build`.

The function gets those of num_classes, image_size (height, width), channels and seed whose names are among its
parameters, and returns a keras.Model of logits, which is called with (images, seeds, training) as
`TransformerClassifier` is, less those that its `call` does not take. In evaluation the seeds are None.

The step computes gradients of a function of weights, images and seeds, on each replica and micro-batch by itself: so
`judge` refuses what keeps a state, draws random numbers of its own, or looks from one image to another.

Legend: B batch, H W C image, K classes.
"""

import collections
import contextlib
import inspect
import itertools
import random
import re
import sys
import zlib

import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state

from cct_tf import sizes
from cct_tf.errors import UserError
from cct_tf.machine import own_code
from cct_tf.machine.backend import keras

_SCOPE = "network"  # first part of the variables' paths, which is no part of their names in a checkpoint
_COUNTERS = "object_name_uids"  # Keras' attribute that numbers layers without a name: conv2d, conv2d_1, ...
_RANDOM = re.compile("Random|TruncatedNormal|Multinomial|StatefulUniform|StatefulStandardNormal|RngRead")
_TOLERANCE = 1e-3  # of the largest logit: what another image may change


class OwnNetwork:
    """Stands in for a `TransformerClassifier` where nothing but images, logits and weights is asked for.

    Args:
        network: keras.Model, built.
        value: str that names its code.
        num_classes: int K.
        image_size: see `cct_tf.sizes`; channels: int C.

    Attributes:
        variant: None, for it is no network of the table: there are no blocks, and its cost is not known.

    Call: as `TransformerClassifier`.
    """

    variant = None

    def __init__(self, network, value, num_classes, image_size, channels):
        self.network, self.name = network, value
        self.num_classes, self.image_size, self.channels = num_classes, image_size, channels
        self._taken = set(inspect.signature(network.call).parameters) & {"seeds", "training"}

    def __call__(self, images, seeds=None, training=None):
        given = {"seeds": seeds, "training": training}
        return tf.cast(self.network(images, **{name: given[name] for name in self._taken}), tf.float32)

    @property
    def weights(self):
        return self.network.weights

    @property
    def variables(self):
        return self.network.variables

    @property
    def trainable_variables(self):
        return self.network.trainable_variables

    @property
    def non_trainable_variables(self):
        return self.network.non_trainable_variables

    @property
    def non_trainable_weights(self):
        return self.network.non_trainable_weights

    def save(self, path):
        """Write the user's own model to a .keras file. Raises UserError if Keras can't write a layer of it."""
        try:
            self.network.save(path)
        except (NotImplementedError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split()).partition(". ")[0]
            raise UserError(f"--model: expected layers that Keras can write to a .keras file, found others in "
                            f"{self.name} ({reason[:200]}); other formats need no get_config") from None


def build(value, num_classes, image_size, channels=3, seed=0, dtype=None):
    """The network that `value` names. Its initial weights depend on the seed and the code alone.

    Args:
        value: str, see the module.
        num_classes: int K.
        image_size: see `cct_tf.sizes`.
        channels: int C.
        seed: int of the run. Initializers without a seed of their own draw from it.
        dtype: Keras dtype policy or its name, which layers have that are given none; None: Keras' global policy.

    Returns:
        OwnNetwork. Under a tf.distribute strategy, call this inside `strategy.scope()`.

    Raises:
        UserError: the function takes or returns something else, or an error of the code.
    """
    function = own_code.load("model", value)
    given = _arguments(value, function, {"num_classes": int(num_classes), "image_size": sizes.sides(image_size),
                                         "channels": channels, "seed": seed})
    with _made_alone(seed, dtype), own_code.errors_shown("model", value):
        network = function(**given)
        _check_kind(value, network)
        found = OwnNetwork(network, value, num_classes, image_size, channels)
        _check_logits(found, network(np.zeros([1, *sizes.sides(image_size), channels], np.float32),
                                     **({"training": False} if "training" in found._taken else {})))
    _check_weights(found)
    return found


def _arguments(value, function, offered):
    """Those of the arguments that a function takes."""
    if not callable(function):
        raise UserError(f"--model: expected a function that returns a keras.Model, found {value} "
                        f"({type(function).__name__})")
    parameters = inspect.signature(function).parameters
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for name, parameter in parameters.items():
        if parameter.kind not in variable and parameter.default is parameter.empty and name not in offered:
            raise UserError(f"--model: expected a function of {', '.join(offered)}, or of some of them, found {value} "
                            f"that needs {name}")
    return {name: offered[name] for name in parameters if name in offered}


@contextlib.contextmanager
def _made_alone(seed, dtype):
    """What is built here depends on no model or number made before, and leaves what comes after as it was."""
    counters, numbers, arrays = global_state.get_global_attribute(_COUNTERS), random.getstate(), np.random.get_state()
    policy = keras.config.dtype_policy()
    global_state.set_global_attribute(_COUNTERS, collections.defaultdict(int))
    keras.utils.set_random_seed(zlib.crc32(str(seed).encode()))
    if dtype is not None:
        keras.config.set_dtype_policy(dtype)
    try:
        with keras.name_scope(_SCOPE):
            yield
    finally:
        keras.config.set_dtype_policy(policy)
        np.random.set_state(arrays)
        random.setstate(numbers)
        global_state.set_global_attribute(_COUNTERS, counters)


def _check_kind(value, network):
    if not isinstance(network, keras.Model):
        raise UserError(f"--model: expected a function that returns a keras.Model, found that {value} returns "
                        f"{type(network).__name__}")
    if isinstance(network, keras.Sequential) or not hasattr(network, "inputs"):
        return
    if network.inputs is not None and len(network.inputs) != 1:
        raise UserError(f"--model: expected a model of the images alone, or a subclass of keras.Model with "
                        f"call(images, seeds, training), found {value} with {len(network.inputs)} inputs")


def _check_logits(model, logits):
    shape = tuple(getattr(logits, "shape", ()))
    if shape != (1, model.num_classes):
        raise UserError(f"--model: expected logits of shape (images, {model.num_classes}) for {model.num_classes} "
                        f"classes, found {shape or type(logits).__name__} for 1 image of {model.name}")


def _check_weights(model):
    """What the optimizer and the checkpoints need."""
    if not model.trainable_variables:
        raise UserError(f"--model: expected a network with weights to train, found none in {model.name}")
    names = [variable.path.replace("/", "_") for variable in model.weights]  # as the optimizer's are called
    twice = [path for path, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"--model: expected layers of different names, found two weights of {model.name} called "
                        f"{twice[0].removeprefix(_SCOPE + '_')}")
    for variable in model.trainable_variables:
        if variable.constraint is not None:
            raise UserError(f"--model: expected weights without constraints, which the step does not apply, found "
                            f"{type(variable.constraint).__name__} of {_path(variable)} in {model.name}")


def _path(variable):
    return variable.path.removeprefix(_SCOPE + "/")


def judge(model):
    """Trace the network as training calls it, and try it on a few images.

    Args:
        model: OwnNetwork.

    Raises:
        UserError: naming the layer: it has a state that moves, random numbers of its own, a loss or weights that Keras
            doesn't know of; or the logits of an image depend on others. Or an error of the code.
    """
    moved, losses = [], []
    passed = model.trainable_variables + [each for each in model.non_trainable_variables
                                          if each.dtype.startswith("float")]

    def run(weights, images, seeds):
        with keras.StatelessScope(list(zip(passed, weights, strict=True)), collect_losses=True) as scope:
            before = {id(each): scope.get_current_value(each) for each in model.variables}
            logits = model(images, seeds=seeds, training=True)
            moved.extend(each for each in model.variables if scope.get_current_value(each) is not before[id(each)])
            losses.extend(model.network.losses)
        return logits

    with own_code.errors_shown("model", model.name):
        traced = tf.function(run, autograph=False).get_concrete_function(
            [tf.TensorSpec(each.shape, each.dtype) for each in passed],
            tf.TensorSpec([2, *sizes.sides(model.image_size), model.channels]), tf.TensorSpec([2], tf.uint32))
    _check_moved(model, moved)
    if losses:
        raise UserError(f"--model: expected a network without losses of its own (regularizers, add_loss), which the "
                        f"step does not add, found {len(losses)} in {model.name}; --weight_decay is the trainer's")
    _check_random(model, traced.graph)
    outside = [each for each in traced.captured_inputs if each.dtype == tf.resource]
    if outside:
        raise UserError("--model: expected all weights in layers that are attributes of the network, floats, found "
                        f"{len(outside)} {'variable' if len(outside) == 1 else 'variables'} elsewhere in {model.name}")
    _check_by_image(model, traced, [tf.convert_to_tensor(each.value) for each in passed])


def _check_moved(model, moved):
    if not moved:
        return
    owners = [layer for layer in model.network._flatten_layers() if any(each is moved[0] for each in layer.variables)]
    layer = min(owners, key=lambda layer: len(layer.variables))
    draws = not moved[0].dtype.startswith("float")
    raise UserError(
        f"--model: expected layers without a state that moves in training, found {type(layer).__name__} "
        f"'{layer.name}' in {model.name}, which "
        + ("draws its own random numbers; cct_tf.layers.drop has masks that are keyed by seeds" if draws else
           f"moves {moved[0].name}; GroupNormalization and LayerNormalization have no such state"))


def _check_random(model, graph):
    definition = graph.as_graph_def()
    nodes = itertools.chain(definition.node, *(function.node_def for function in definition.library.function))
    for node in nodes:
        if _RANDOM.search(node.op):
            raise UserError(f"--model: expected no random numbers but those keyed by seeds (cct_tf.layers.drop, "
                            f"cct_tf.rng), found the operation {node.name} ({node.op}) in {model.name}")


def _check_by_image(model, traced, weights):
    """Whether the logits of the first image stay what they are when the second is another one."""
    images = np.random.default_rng(0).standard_normal([3, *sizes.sides(model.image_size), model.channels], np.float32)
    found = [traced(weights, tf.constant(images[[0, other]]), tf.constant([0, other], tf.uint32)).numpy()[0]
             for other in (1, 2)]
    if np.abs(found[0] - found[1]).max() > _TOLERANCE * max(np.abs(found[0]).max(), _TOLERANCE):
        raise UserError("--model: expected logits of an image that depend on that image alone, found others in another "
                        f"batch in {model.name} (as by means over the batch)")


def classes_of(value, flag="model"):
    """The classes in the module of `value`, by name, as `custom_objects` of Keras; errors as `own_code.load`."""
    module = sys.modules[own_code.load(flag, value).__module__]
    return {name: each for name, each in vars(module).items() if isinstance(each, type)}
