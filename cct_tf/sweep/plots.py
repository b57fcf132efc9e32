"""Optuna's pictures of a study, drawn with matplotlib without a display."""

import warnings

from cct_tf.pictures import plots

_SEED = 0  # of the random forest that tells the importance of the flags
_FEWEST = 8  # complete trials, of which it can tell something


def write(study, folder, target):
    """Draw what there is enough to draw of.

    Args:
        study: `optuna.Study`.
        folder: pathlib.Path.
        target: name of the value, for the axes.

    Returns:
        (paths that were written, lines on what was not drawn and why).
    """
    import matplotlib
    matplotlib.use("Agg")
    from optuna import importance
    from optuna.visualization import matplotlib as pictures

    def importances():
        if (count := sum(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False))) < _FEWEST:
            raise ValueError(f"it takes {_FEWEST} complete trials, found {count}")
        return pictures.plot_param_importances(study, evaluator=importance.FanovaImportanceEvaluator(seed=_SEED),
                                               target_name=target)

    written, notes = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is experimental in Optuna
        for name, draw in (("history", lambda: pictures.plot_optimization_history(study, target_name=target)),
                           ("importance", importances),
                           ("parallel_coordinates", lambda: pictures.plot_parallel_coordinate(
                               study, target_name=target))):
            try:
                axes = draw()
            except (ValueError, RuntimeError) as error:  # too few trials, or all of one value
                notes.append(f"no picture of the {name.replace('_', ' ')}: {' '.join(str(error).split())}")
                continue
            path = folder / f"{name}.png"
            _save(axes.figure, path)
            written.append(path)
    return written, notes


def _save(figure, path):
    from matplotlib import pyplot, ticker
    figure.set_size_inches(10, 5)
    figure.set_dpi(110)
    for axes in figure.axes:
        if path.stem == "parallel_coordinates":  # in Optuna's colours the lowest are white, on grey, under a grid
            axes.grid(False)
            axes.set_facecolor("white")
            for lines in axes.collections:
                lines.set_cmap("viridis_r")
        elif path.stem == "history":
            axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    figure.tight_layout()
    plots.save(plots.as_array(figure), path)
    pyplot.close(figure)
