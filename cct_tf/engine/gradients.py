"""Loss and gradients of a micro-batch, as a function of the weights: traced once for all replicas and micro-batches.

    tokenizer    images -> tokens               operation by operation, or within the encoder's program
    encoder      tokens -> logits -> loss       operation by operation, or one program of XLA

The weights are arguments, not variables that the function reads: a function that reads variables is traced again for
each replica, whose variables are others.

Legend: m images of a micro-batch, S their side, K classes, D width of the tokens.
"""

import contextlib

import keras
import tensorflow as tf

from cct_tf import sizes
from cct_tf.engine import losses
from cct_tf.layers.compiling import compiling
from cct_tf.layers.recompute import recomputing


class Gradients:
    """Gradients of one micro-batch's part of the loss.

    Args:
        model: `models.classifier.TransformerClassifier`, or without "encoder" another network that is called like it.
        example_loss: function of (labels [m, K], logits [m, K]) -> [m].
        example_accuracy: the same, see `losses.make_accuracy`.
        batch_size: int, the global batch; every sum over examples is divided by it.
        jit: "off", "encoder" or "all": what XLA compiles.
        kind: "CPU" or "GPU", what it is compiled for.
        fast_forms: bool, compile the forms of layers that were written for XLA, where there are such.
        recompute: bool, compute the blocks again in the backward pass, see `layers.recompute`.
        weighted: bool, whether the examples have weights.
        distillation: `distillation.Distillation` from teachers, whose targets are given in each call; or None.

    Attributes:
        variables: list of keras.Variable, of the first argument of a call.
        num_trainable: int, how many of them, from the first, have gradients.
    """

    def __init__(self, model, example_loss, batch_size, jit="off", kind="CPU", fast_forms=True, recompute=False,
                 example_accuracy=losses.is_first, weighted=False, distillation=None):
        self._weighted, self._distillation = weighted, distillation
        self._model = model
        self._example_loss, self._example_accuracy = example_loss, example_accuracy
        self._batch_size = batch_size
        self._jit = jit
        self._form = kind if fast_forms else None
        self._recompute = recompute
        self.num_trainable = len(model.trainable_variables)
        # Frozen weights too; not the model's own seeds, which are never drawn from here.
        self.variables = model.trainable_variables + [
            variable for variable in model.non_trainable_variables if variable.dtype.startswith("float")]
        tokenizer = model.tokenizer.trainable_variables if jit == "encoder" else ()
        self._tokenizer_part = [index for index, variable in enumerate(self.variables)
                                if any(variable is own for own in tokenizer)]
        self._encode = tf.function(self._of_encoder, jit_compile=True, autograph=False)
        self._traced = {}

    def for_size(self, size):
        """The function for micro-batches of `size` images, traced. Call this eagerly, and the function in the step.

        Returns:
            ConcreteFunction of (weights: list like `variables`; images float32 [m, S, S, 3]; labels float32 [m, K];
            seeds uint32 [m]; scale: float32, what the loss is multiplied by before its gradients; where examples are
            weighted, their weights float32 [m], by which their losses are multiplied; with teachers, their targets
            float32 [m, K]) -> (list of gradients, times scale; loss; accuracy), sums over the examples divided by the
            global batch.
        """
        if size not in self._traced:
            shape = [size, *sizes.sides(self._model.image_size), self._model.channels]
            weights = [tf.TensorSpec(variable.shape, variable.dtype) for variable in self.variables]
            function = {"off": self._plain, "encoder": self._split, "all": self._compiled}[self._jit]
            # Not inlined: its operations would lose the device of the replica that calls it.
            self._traced[size] = tf.function(
                function, jit_compile=self._jit == "all" or None, autograph=False,
                experimental_attributes=None if self._jit == "all" else {"_noinline": True}).get_concrete_function(
                    weights, tf.TensorSpec(shape), tf.TensorSpec([size, self._model.num_classes]),
                    tf.TensorSpec([size], tf.uint32), tf.TensorSpec([]),
                    *([tf.TensorSpec([size])] if self._weighted else []),
                    *([tf.TensorSpec([size, self._model.num_classes])] if self._distillation else []))
        return self._traced[size]

    @contextlib.contextmanager
    def _scope(self, weights):
        with keras.StatelessScope(state_mapping=list(zip(self.variables, weights, strict=True))) as scope:
            with recomputing(scope if self._recompute else None):
                yield

    def _plain(self, weights, images, labels, seeds, scale, *of_examples):
        """The whole network."""
        trained = weights[:self.num_trainable]
        with self._scope(weights), tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trained)
            logits = self._model(images, seeds=seeds, training=True)
            loss, accuracy, scaled = self._judge(logits, labels, scale, *of_examples)
        return tape.gradient(scaled, trained), loss, accuracy

    def _compiled(self, *parts):
        with compiling(self._form):
            return self._plain(*parts)

    def _split(self, weights, images, labels, seeds, scale, *of_examples):
        """The tokenizer operation by operation, the rest compiled: forward and backward in one program."""
        own = [weights[index] for index in self._tokenizer_part]
        with self._scope(weights), tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(own)
            tokens = self._model.tokenizer(images)
        gradients, of_tokens, loss, accuracy = self._encode(weights, tokens, labels, seeds, scale, *of_examples)
        if not own:
            return gradients, loss, accuracy
        with self._scope(weights):
            of_own = tape.gradient(tokens, own, output_gradients=of_tokens)
        for index, gradient in zip(self._tokenizer_part, of_own, strict=True):
            gradients[index] = gradient
        return gradients, loss, accuracy

    def _of_encoder(self, weights, tokens, labels, seeds, scale, *of_examples):
        """As `_plain` from the tokens on: (gradients, zeros for the tokenizer's; of the tokens; loss; accuracy)."""
        trained = weights[:self.num_trainable]
        with compiling(self._form), self._scope(weights), tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([trained, tokens])
            logits = self._model.classify(tokens, seeds=seeds, training=True)
            loss, accuracy, scaled = self._judge(logits, labels, scale, *of_examples)
            *gradients, of_tokens = tape.gradient(scaled, [*trained, tokens])
        none = tf.zeros([])
        if not self._tokenizer_part:
            of_tokens = none  # a frozen tokenizer wants none, so XLA leaves it out
        return [none if gradient is None else gradient for gradient in gradients], of_tokens, loss, accuracy

    def _judge(self, logits, labels, scale, *of_examples):
        """(loss, accuracy, scaled loss) of the micro-batch's part, scalars.

        The sum of w * loss is divided by the number of images, never by the sum of w: that of a part is not known.
        """
        logits = tf.cast(logits, tf.float32)
        each = self._example_loss(labels, logits)
        if self._distillation:
            each += self._distillation.loss(of_examples[-1], logits)
        if self._weighted:
            each *= of_examples[0]
        loss = tf.reduce_sum(each) / self._batch_size
        accuracy = tf.reduce_sum(self._example_accuracy(labels, logits)) / self._batch_size
        return loss, accuracy, loss * scale
