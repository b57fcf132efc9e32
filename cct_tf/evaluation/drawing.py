"""An evaluation as pictures: for `plots/` and TensorBoard, and for `evaluate`."""

import numpy as np

from cct_tf.evaluation.multilabel import HALF, MultilabelEvaluation
from cct_tf.pictures import plots


def figures(evaluation, class_names, title=None):
    """{name: matplotlib Figure}: the confusion matrix, or of several labels a table of the classes.

    Args:
        evaluation: `metrics.Evaluation` or `multilabel.MultilabelEvaluation`.
        class_names: sequence of K strings.
        title: words above it, or None.
    """
    if isinstance(evaluation, MultilabelEvaluation):
        return {"classes": plots.classes_figure(class_table(evaluation), class_names, title)}
    return {"confusion_matrix": plots.confusion_figure(evaluation.confusion, class_names, title)}


def class_table(evaluation):
    """The columns of the table of classes, {title: array [K]}; `evaluation`: a `multilabel.MultilabelEvaluation`."""
    half, fitted = (evaluation.class_scores(at).f1 for at in (HALF, evaluation.chosen_thresholds))
    return {"average precision": evaluation.average_precision, "AUC": evaluation.auc, "F1 at 0.5": half,
            "threshold": np.array(evaluation.chosen_thresholds), "F1 there": fitted,
            "images": evaluation.labels.sum(axis=0, dtype=np.int64)}
