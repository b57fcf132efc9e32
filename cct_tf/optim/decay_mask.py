"""Which variables weight decay leaves alone, and which it may correct."""


def undecayed(variables, mask):
    """The variables that do not decay.

    Args:
        variables: list of trainable keras.Variable.
        mask: "matrices": biases and other one-dimensional variables do not decay (positions, of shape [N, D], do,
            as in the authors' runs); "all": every variable decays.

    Returns:
        list of keras.Variable.
    """
    if mask == "all":
        return []
    return [variable for variable in variables if len(variable.shape) <= 1]


def is_corrected(path):
    """Whether corrected weight decay (AdamC, arXiv:2506.02285) takes a variable for one of a normalised layer.

    The paper: "we consider every linear layer as normalized, excluding the output layer of the network". Convolutions
    of the tokenizer are such layers too; positions, class token, norms and biases are none.

    Args:
        path: str, of a variable of one of our networks, `name/part/.../variable`.
    """
    return path.endswith("kernel") and path.split("/")[1] != "head"
