"""Where the time of a training step goes on a CPU, part by part, each beside its floor.

Each part is timed by itself: forward and backward, on a micro-batch of random tensors, by the project's own layers in
the form that the step takes (features first under XLA, the layers under XLA, or graph mode). The time of a call is
multiplied by how often the step does it. Dropout is a part of its own, so attention and MLP are timed without it.

What this can't tell: a part alone can't fuse with its neighbours, each call takes some 0.1 ms to launch, and tensors
are in the cache or not in another way than within the step. So the parts add up to more or less than the step; the
rest is the difference and not a measurement. In it are the images' normalisation, positions, residual sums, pooling,
head, loss, the sums of micro-batches and the average of the weights.

Legend: m images of a micro-batch, N tokens, D their width, h heads, M width of the MLP.
"""

import collections.abc
import dataclasses
import statistics

import tensorflow as tf

from cct_tf import sizes
from cct_tf.assembly import networks
from cct_tf.benchmark import machine, measuring
from cct_tf.errors import UserError
from cct_tf.layers import features_first
from cct_tf.layers.compiling import compiling
from cct_tf.models import cost

_DROPLESS = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0, "drop_path_rate": 0.0}


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the step.

    Attributes:
        run: function without arguments that does it once and waits for its end.
        calls: int, how often a step does it.
        gflop: float, of a step, by the convention of `benchmark.step`; None where memory is the floor.
        gbyte: float, what a step has to read and write; None where products are the floor.
    """

    run: collections.abc.Callable
    calls: int
    gflop: float | None = None
    gbyte: float | None = None

    def seconds(self, length):
        """Of a step, measured for at least `length` seconds."""
        def once():
            self.run()
            return 1

        return self.calls / measuring.rate(once, length)


class Parts:
    """The parts of the step of a network.

    Args:
        bare: `step.BareStep` on one CPU.
        config: `config.Config` of it.

    Attributes:
        parts: dict name -> Part.
    """

    def __init__(self, bare, config):
        self._model, self._variant = bare.model, bare.model.variant
        self._micros, self._jit = bare.tuning.accumulate_steps.value, bare.tuning.jit.value
        self._size = config.optim.batch_size // self._micros
        self._form = "CPU" if config.run.fast_forms and self._jit != "off" else None
        self._dtype = tf.as_dtype(bare.model.compute_dtype)
        variant = self._variant
        tokens = tf.zeros([self._size, variant.num_tokens, variant.embed_dim], self._dtype)
        self._turned = self._form is not None and features_first.is_faster(tokens)
        dropless = dataclasses.replace(config.model, **_DROPLESS, precision=bare.tuning.precision.value)
        self._dropless = networks.build_model(dataclasses.replace(config, model=dropless), bare.model.num_classes)
        products = {name: 6e-9 * macs * config.optim.batch_size
                    for name, macs in cost.macs_by_part(variant, bare.model.num_classes).items()}
        block = self._dropless.blocks[0]
        each = self._micros * variant.depth
        self.parts = {
            "tokenizer": Part(self._tokenizer(), self._micros, products["tokenizer"]),
            "attention": Part(self._layer("attention", block.attention), each, products["attention"]),
            "mlp": Part(self._layer("mlp", block.mlp), each, products["mlp"]),
            "norms": Part(self._layer("norm", block.attention_norm), each * 2 + self._micros,
                          gbyte=self._gbyte(5 * (2 * each + self._micros), tokens.shape))}
        shapes = self._dropped()
        if shapes:
            elements = sum(tf.TensorShape(shape).num_elements() for _, shape in shapes)
            self.parts["masks"] = Part(self._masks(shapes), each, gbyte=self._gbyte(4 * each, [elements]))
        self.parts["update"] = _update(bare)

    def _gbyte(self, times, shape):
        """Of reading and writing a tensor of this shape so many times."""
        return 1e-9 * times * tf.TensorShape(shape).num_elements() * self._dtype.size

    def _tokenizer(self):
        images = [self._size, *sizes.sides(self._variant.image_size), self._variant.channels]
        tokenizer = self._dropless.tokenizer

        def compute(tensors, seeds):
            return [tokenizer(*tensors)]

        return self._both_ways(compute, tokenizer, [images], self._jit == "all", of_inputs=False)

    def _layer(self, piece, layer):
        """Forward and backward of a layer of the block, tokens to tokens."""
        m, N, D = self._size, self._variant.num_tokens, self._variant.embed_dim

        def compute(tensors, seeds):
            if self._turned:
                return [features_first.PIECES[piece](layer, *tensors, None, (m, N))]
            return [layer(*tensors, training=True)]

        return self._both_ways(compute, layer, [[D, m * N] if self._turned else [m, N, D]], self._jit != "off")

    def _dropped(self):
        """(layer, shape of what it drops) of each dropout with a rate above 0 of the last block."""
        m, N, D = self._size, self._variant.num_tokens, self._variant.embed_dim
        block = self._model.blocks[-1]
        places = [(block.attention.dropout, [m, self._variant.num_heads, N, N]),
                  (block.attention.projection_dropout, [m, N, D]), (block.attention_path, [m, N, D]),
                  (block.mlp.hidden_dropout, [m, N, block.mlp.hidden_dim]), (block.mlp.output_dropout, [m, N, D]),
                  (block.mlp_path, [m, N, D])]
        return [(layer, shape) for layer, shape in places if layer.rate > 0]

    def _masks(self, shapes):
        def compute(tensors, seeds):
            return [layer(x, seeds=seeds, training=True) for (layer, _), x in zip(shapes, tensors, strict=True)]

        return self._both_ways(compute, None, [shape for _, shape in shapes], self._jit != "off")

    def _both_ways(self, compute, layer, shapes, compiled, of_inputs=True):
        """Function that runs `compute` and its gradients once.

        Args:
            compute: function of (list of tensors, seeds uint32 [m]) -> list of tensors.
            layer: keras layer whose weights have gradients, or None.
            shapes: of the tensors given.
            compiled: bool, by XLA.
            of_inputs: bool, whether the tensors have gradients too.
        """
        variables = [variable.value for variable in layer.trainable_variables] if layer else []

        # Seeds are an argument: what follows from a constant is computed once, when it is compiled.
        @tf.function(jit_compile=compiled or None, autograph=False)
        def run(tensors, upstream, seeds):
            with compiling(self._form if compiled else None), tf.GradientTape() as tape:
                tape.watch(tensors)
                found = compute(tensors, seeds)
                gradients = tape.gradient(found, variables + (tensors if of_inputs else []), upstream)
            return found, gradients  # both, or what only the one needs would be left out

        tensors = [tf.cast(tf.random.stateless_normal(shape, [0, 1]), self._dtype) for shape in shapes]
        seeds = tf.cast(tf.range(self._size), tf.uint32)
        outputs, _ = run.get_concrete_function(tensors, None, seeds).structured_outputs
        upstream = [tf.cast(tf.random.stateless_normal(one.shape, [0, 2]), one.dtype) for one in outputs]

        def once():
            run(tensors, upstream, seeds)  # on CPUs a call returns when it is done

        once()
        return once


def _update(bare):
    """The Part of the optimizer."""
    optimizer, variables = bare.optimizer, bare.model.trainable_variables
    gradients = [1e-3 * tf.random.stateless_normal(variable.shape, [0, 3]) for variable in variables]
    told = (tf.constant(True),) if optimizer.masks else ()

    @tf.function(autograph=False)
    def update():
        optimizer.apply_gradients(zip(gradients, variables, strict=True), *told)
        return tf.zeros([])

    update()
    weights = sum(variable.shape.num_elements() for variable in variables)
    state = sum(tf.TensorShape(variable.shape).num_elements() for variable in optimizer.variables)
    return Part(update, 1, gbyte=4e-9 * (3 * weights + 2 * state))


def measure(bare, config, console, repeats, seconds, peak):
    """Time the parts in turn, the whole step among them.

    Args:
        bare, config: see `Parts`.
        console: `console.Console`; repeats: int; seconds: float, of one measurement.
        peak: GFLOP/s of the fastest matrix product.

    Returns:
        dict: see `summary`.
    """
    if bare.devices.kind != "CPU":
        raise UserError("--parts: expected a CPU (--device=cpu), for on GPUs the profiler tells (--profile_steps), "
                        f"found {bare.devices.description}")
    with console.phase("compiling the parts"):
        parts = Parts(bare, config).parts
    batch = config.optim.batch_size
    sides = {"whole": lambda length: batch / bare.steps.measure(length), "copy": machine.Copy()}
    with console.phase("measuring the parts"):
        times = measuring.in_turn({name: part.seconds for name, part in parts.items()} | sides, repeats, seconds)
    return summary(parts, times, peak)


def summary(parts, times, peak):
    """What the parts take beside the whole step and beside their floors.

    Args:
        parts: dict name -> Part.
        times: dict name -> seconds of a step in each round, of the parts and "whole"; of "copy" GB/s.
        peak: GFLOP/s.

    Returns:
        dict: "step_ms", "sum_ms", "sum_percent", "copy_gbytes_per_second", and "rows", a dict name -> {"ms", "lowest",
        "highest", "percent" of the step, "gflops" or "gbytes" a second, "floor_ms"}; "rest" has "ms" and "percent".
    """
    copy, whole = statistics.median(times["copy"]), 1e3 * statistics.median(times["whole"])
    rows = {}
    for name, part in parts.items():
        row = measuring.spread([1e3 * one for one in times[name]], "ms")
        rate = {"gflops": 1e3 * part.gflop / row["ms"]} if part.gflop else {"gbytes": 1e3 * part.gbyte / row["ms"]}
        floor = 1e3 * (part.gflop / peak if part.gflop else part.gbyte / copy)
        rows[name] = row | {"percent": 100 * row["ms"] / whole} | rate | {"floor_ms": floor}
    total = sum(row["ms"] for row in rows.values())
    rows["rest"] = {"ms": whole - total, "percent": 100 * (whole - total) / whole}
    return {"step_ms": whole, "sum_ms": total, "sum_percent": 100 * total / whole, "copy_gbytes_per_second": copy,
            "rows": rows}
