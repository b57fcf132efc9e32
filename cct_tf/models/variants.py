"""The networks by name: a literal table, a grammar for combinations nobody published, and their checks.

Imports without TensorFlow, so that a wrong name or size is answered at once.

    cct_{2,3,4,6,7,14}_{kernel}x{convolutions}_{image size}[_sine]     cct_7_3x1_32, cct_2_3x1_32
    cvt_{2,3,4,6,7}_{patch}_{image size}[_sine]                        cvt_7_4_32
    vit_{2,3,4,6,7}_{patch}_{image size}[_sine]                        vit_7_4_32_sine (ViT-Lite)
    cct_2_3x2_32_keras, vit_b_16_224                                 these two only

Sources: arXiv:2104.05704 and its authors' code (github.com/SHI-Labs/Compact-Transformers, src/cct.py, cvt.py, vit.py);
the Keras tutorial (keras.io/examples/vision/cct); arXiv:2010.11929 Table 1 for vit_b_16_224.
"""

import dataclasses
import math
import re

from cct_tf import sizes
from cct_tf.errors import UserError, nearest
from cct_tf.layers import spec

POSITIONAL_EMBEDDINGS = ("learnable", "sine", "none")
MIN_IMAGE_SIZE = 8


@dataclasses.dataclass(frozen=True)
class Variant:
    """One network, all but its number of classes. Rates and the like may differ from the published ones.

    The defaults are those of the paper's networks; a row of the table says what its network does differently.
    """

    name: str
    family: str  # "cct" and "cvt" pool the sequence, "vit" has a class token
    image_size: int | tuple  # side of the square input in pixels, or (height, width), see `cct_tf.sizes`
    depth: int  # transformer blocks
    num_heads: int
    mlp_ratio: int  # hidden width of the MLP / embed_dim
    embed_dim: int
    kernel_size: int  # of the convolutions; of a patch tokenizer: the patch's side
    num_convs: int = 1
    tokenizer: str = "conv"  # "conv", "conv_keras" (valid convolution, padding before the pooling) or "patch"
    positional_embedding: str = "learnable"
    norm_order: str = "authors"  # "authors": the residual stream is replaced by the second LayerNorm; "pre": usual
    qk_norm: bool = False  # LayerNorm of the queries and keys of each head
    zero_init_outputs: bool = False  # the last layer of each residual branch starts at zero
    head_dim: int | None = None  # None: embed_dim / num_heads
    qkv_bias: bool = False
    gelu: str = "exact"  # or "tanh"
    mlp_output_activation: bool = False  # GELU after the second layer of the MLP too
    dropout_places: str = "all"  # "all" (tokens, attention's projection, MLP) or "mlp"
    initializer: str = "authors"  # a scheme of cct_tf.layers.initializers
    layer_norm_epsilon: float = 1e-5
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.1
    drop_path_rate: float = 0.1  # of the last block; it grows linearly from 0 in the first
    channels: int = 3  # of the images

    def __post_init__(self):
        object.__setattr__(self, "image_size", sizes.as_size(self.image_size))

    @property
    def seq_pool(self):
        """True for sequence pooling, False for a class token."""
        return self.family != "vit"

    @property
    def stride(self):
        """Stride of a convolution of the tokenizer."""
        if self.tokenizer == "patch":
            return self.kernel_size
        return 1 if self.tokenizer == "conv_keras" else max(1, self.kernel_size // 2 - 1)

    @property
    def padding(self):
        """Zeros on each side of the input of a convolution of the tokenizer."""
        return max(1, self.kernel_size // 2) if self.tokenizer == "conv" else 0

    @property
    def inner_dim(self):
        """Width of the queries of all heads together."""
        return self.num_heads * self.head_dim if self.head_dim else self.embed_dim

    @property
    def pool_padding(self):
        """Of the tokenizer's pooling, one of `layers.spec.POOL_PADDINGS`; None for patches, which are not pooled."""
        return {"conv": "authors", "conv_keras": "keras", "patch": None}[self.tokenizer]

    @property
    def conv_widths(self):
        """Output channels of each convolution of the tokenizer, a list of int."""
        return spec.conv_widths(self.num_convs, self.embed_dim)

    def conv_sides(self):
        """(height, width) of the output of each convolution of the tokenizer, before pooling, a list.

        Below 1: the input is too small.
        """
        found, current = [], sizes.sides(self.image_size)
        for _ in range(self.num_convs):
            found.append(tuple(spec.conv_side(side, self.kernel_size, self.stride, self.padding) for side in current))
            current = tuple(map(self._pooled, found[-1]))
        return found

    def _pooled(self, side):
        return spec.pool_side(side, self.pool_padding) if self.pool_padding else side

    @property
    def grid(self):
        """Tokens down and across the image, two ints."""
        return tuple(map(self._pooled, self.conv_sides()[-1]))

    @property
    def num_tokens(self):
        """Tokens the encoder sees, the class token included."""
        return math.prod(self.grid) + (0 if self.seq_pool else 1)

    @property
    def drop_path_rates(self):
        """Stochastic depth of each block, linspace(0, drop_path_rate, depth)."""
        return tuple(self.drop_path_rate * block / max(1, self.depth - 1) for block in range(self.depth))


@dataclasses.dataclass(frozen=True)
class Size:
    """What the first number of a name stands for: depth, heads, widths."""

    depth: int
    num_heads: int
    mlp_ratio: int
    embed_dim: int


SIZES = {
    2: Size(depth=2, num_heads=2, mlp_ratio=1, embed_dim=128),
    3: Size(depth=3, num_heads=2, mlp_ratio=1, embed_dim=128),  # not published: between 2 and 4
    4: Size(depth=4, num_heads=2, mlp_ratio=1, embed_dim=128),
    6: Size(depth=6, num_heads=4, mlp_ratio=2, embed_dim=256),
    7: Size(depth=7, num_heads=4, mlp_ratio=2, embed_dim=256),
    14: Size(depth=14, num_heads=6, mlp_ratio=3, embed_dim=384),
}

TUTORIAL = Variant(
    "cct_2_3x2_32_keras", family="cct", image_size=32, depth=2, num_heads=2, mlp_ratio=1, embed_dim=128,
    kernel_size=3, num_convs=2, tokenizer="conv_keras", norm_order="pre", head_dim=128, qkv_bias=True, gelu="tanh",
    mlp_output_activation=True, dropout_places="mlp", initializer="keras", dropout_rate=0.1)

PLAIN_VIT = Variant(
    "vit_b_16_224", family="vit", image_size=224, depth=12, num_heads=12, mlp_ratio=4, embed_dim=768,
    kernel_size=16, tokenizer="patch", norm_order="pre", qkv_bias=True, initializer="vit", layer_norm_epsilon=1e-6,
    attention_dropout_rate=0.0, drop_path_rate=0.0)

NAMED = {variant.name: variant for variant in (TUTORIAL, PLAIN_VIT)}

PUBLISHED = (
    "cct_2_3x2_32", "cct_2_3x2_32_sine", "cct_4_3x2_32", "cct_4_3x2_32_sine",
    "cct_6_3x1_32", "cct_6_3x1_32_sine", "cct_6_3x2_32", "cct_6_3x2_32_sine",
    "cct_7_3x1_32", "cct_7_3x1_32_sine", "cct_7_3x2_32", "cct_7_3x2_32_sine",
    "cct_7_7x2_224", "cct_7_7x2_224_sine",
    "cct_14_7x2_224", "cct_14_7x2_224_sine", "cct_14_7x2_384", "cct_14_7x2_384_sine",
    "cvt_2_4_32", "cvt_2_4_32_sine", "cvt_4_4_32", "cvt_4_4_32_sine",
    "cvt_6_4_32", "cvt_6_4_32_sine", "cvt_7_4_32", "cvt_7_4_32_sine",
    "vit_2_4_32", "vit_2_4_32_sine", "vit_4_4_32", "vit_4_4_32_sine",
    "vit_6_4_32", "vit_6_4_32_sine", "vit_7_4_32", "vit_7_4_32_sine",
    "cct_2_3x2_32_keras", "vit_b_16_224",
)

_NUMBER = "([1-9][0-9]{0,3})"
_CCT = re.compile(f"cct_(2|3|4|6|7|14)_{_NUMBER}x{_NUMBER}_{_NUMBER}(_sine)?", re.ASCII)
_PATCH = re.compile(f"(cvt|vit)_(2|3|4|6|7)_{_NUMBER}_{_NUMBER}(_sine)?", re.ASCII)
GRAMMAR = "cct_{2,3,4,6,7,14}_{kernel}x{convolutions}_{size}[_sine], {cvt,vit}_{2,3,4,6,7}_{patch}_{size}[_sine]"


def list_models():
    """Names of the networks in the table, a list of str; the grammar allows more."""
    return list(PUBLISHED)


def _parse(name):
    """Name -> Variant, not yet checked; None if the name follows no rule."""
    if name in NAMED:
        return NAMED[name]
    if match := _CCT.fullmatch(name):
        size, kernel, convs, image_size = (int(group) for group in match.groups()[:4])
        return Variant(name, "cct", image_size, **dataclasses.asdict(SIZES[size]), kernel_size=kernel, num_convs=convs,
                       positional_embedding="sine" if match[5] else "learnable")
    if match := _PATCH.fullmatch(name):
        size, patch, image_size = (int(group) for group in match.groups()[1:4])
        return Variant(name, match[1], image_size, **dataclasses.asdict(SIZES[size]), kernel_size=patch,
                       tokenizer="patch", positional_embedding="sine" if match[5] else "learnable")
    return None


def resolve(name, image_size=None, positional_embedding=None, norm_order=None, dropout_rate=None,
            attention_dropout_rate=None, drop_path_rate=None, channels=None, qk_norm=None, zero_init_outputs=None):
    """The variant called `name`, with every field that is not None in place of the variant's own, checked.

    Args: as `create_model`.

    Returns:
        Variant.

    Raises:
        UserError: an unknown name (with the nearest ones), or a value out of range.
    """
    variant = _parse(name) if isinstance(name, str) else None
    if variant is None:
        hint = nearest(str(name), PUBLISHED) or f"; names are {GRAMMAR} and {' and '.join(NAMED)}"
        raise UserError(f"model: expected a known name, found {name!r}{hint}")
    given = {"image_size": image_size, "positional_embedding": positional_embedding, "norm_order": norm_order,
             "dropout_rate": dropout_rate, "attention_dropout_rate": attention_dropout_rate,
             "drop_path_rate": drop_path_rate, "channels": channels, "qk_norm": qk_norm,
             "zero_init_outputs": zero_init_outputs}
    variant = dataclasses.replace(variant, **{key: value for key, value in given.items() if value is not None})
    _check_choices(variant)
    _check_size(variant)
    return variant


def _check_choices(variant):
    for field, known in (("positional_embedding", POSITIONAL_EMBEDDINGS), ("norm_order", spec.NORM_ORDERS)):
        value = getattr(variant, field)
        if value not in known:
            raise UserError(f"{field}: expected one of {', '.join(known)}, found {value!r}")
    for field in ("qk_norm", "zero_init_outputs"):
        if type(getattr(variant, field)) is not bool:
            raise UserError(f"{field}: expected true or false, found {getattr(variant, field)!r}")
    if type(variant.channels) is not int or variant.channels < 1:
        raise UserError(f"channels: expected an integer of at least 1, found {variant.channels!r}")
    for field in ("dropout_rate", "attention_dropout_rate", "drop_path_rate"):
        rate = getattr(variant, field)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 <= rate < 1.0:
            raise UserError(f"{field}: expected a number of at least 0 and below 1, found {rate!r}")


def _large_enough(variant):
    return min(map(min, variant.conv_sides())) >= 1 and min(variant.grid) >= 2


def _check_size(variant):
    size, pair = variant.image_size, sizes.sides(variant.image_size)
    if len(pair) != 2 or not all(type(side) is int and side >= MIN_IMAGE_SIZE for side in pair):
        what = "two integers" if isinstance(size, tuple) else "an integer"
        raise UserError(f"image_size: expected {what} of at least {MIN_IMAGE_SIZE}, found {size!r}")
    if variant.tokenizer == "patch" and any(side % variant.kernel_size for side in pair):
        raise UserError(f"image_size: expected a multiple of the patch side {variant.kernel_size} of {variant.name}, "
                        f"found {size}")
    if not _large_enough(variant):
        raise UserError(f"image_size: expected one that leaves {variant.name} at least 2 x 2 tokens, found {size}")
