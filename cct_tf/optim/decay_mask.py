"""Which variables weight decay leaves alone."""


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
