"""Layer-wise learning-rate decay: the further from the head, the less a variable learns (arXiv:2106.08254)."""

_FIRST = ("tokenizer", "positions", "class_token")
_LAST = ("norm", "pooling", "head")


def rate_factors(variables, decay, depth=None):
    """Factors of the variables' learning rates, and so of their weight decay: decay^(L + 1 - id), with L blocks.

    The layer id is 0 for tokenizer, positions and class token, i + 1 for block i, and L + 1 for all that follows the
    blocks. This is the rule of BEiT's optim_factory.py (microsoft/unilm); timm counts the final norm to the last block.

    Args:
        variables: list of keras.Variable, trainable ones of one model.
        decay: float in (0, 1].
        depth: int, the model's number of blocks L; None counts those that the variables belong to.

    Returns:
        list of floats, one per variable.

    Raises:
        ValueError: a variable of no known part of the network.
    """
    if decay == 1.0:
        return [1.0] * len(variables)
    parts = [variable.path.split("/")[1] for variable in variables]
    if depth is None:
        depth = len({part for part in parts if part.startswith("block_")})
    return [decay ** (depth + 1 - _layer_id(part, depth)) for part in parts]


def _layer_id(part, depth):
    if part in _FIRST:
        return 0
    if part in _LAST:
        return depth + 1
    if part.startswith("block_"):
        return int(part.removeprefix("block_")) + 1
    raise ValueError(f"{part}: at no known depth of the network")
