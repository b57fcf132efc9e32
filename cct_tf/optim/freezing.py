"""Which weights do not learn. No TensorFlow here."""

import fnmatch

from cct_tf.errors import UserError

# A pattern fits a path itself, and everything below that path.
_GROUPS = {"tokenizer": ("tokenizer",), "encoder": ("class_token", "positions", "block_*", "norm")}


def frozen_paths(paths, text, name):
    """The weights that --freeze names.

    Args:
        paths: list of str, the paths of all trainable weights of a network, without its name.
        text: the flag: "tokenizer" (what makes tokens of the image), "encoder" (class token, positions, blocks, final
            norm), "all_but_head", or patterns such as "block_0", "block_[0-3]/attention", "*/bias", with commas
            between several; or None.
        name: str, of the network.

    Returns:
        set of the paths.

    Raises:
        UserError: a pattern fits nothing, or nothing is left to learn.
    """
    frozen = set()
    for part in text.split(",") if text else ():
        found = {path for path in paths if _fits(path, part)}
        if not found:
            parts = sorted({path.split("/")[0] for path in paths})
            raise UserError(f"--freeze: expected tokenizer, encoder, all_but_head or a pattern of weights of {name} "
                            f"({', '.join(parts)}), found {part!r}, which fits none")
        frozen |= found
    if frozen and len(frozen) == len(set(paths)):
        raise UserError(f"--freeze: expected some weights of {name} left to learn, found all frozen by {text!r}")
    return frozen


def _fits(path, part):
    if part == "all_but_head":
        return not path.startswith("head/")
    return any(fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"{pattern}/*")
               for pattern in _GROUPS.get(part, (part,)))


def freeze(model, text):
    """Keep weights of a network from learning: they leave its `trainable_variables`.

    Args:
        model: a model of `cct_tf.create_model`; the weights may not be in an optimizer yet.
        text: as for `frozen_paths`.
    """
    variables = {variable.path.partition("/")[2]: variable for variable in model.trainable_variables}
    for path in frozen_paths(list(variables), text, model.variant.name):
        variables[path].trainable = False
