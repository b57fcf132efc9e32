"""ViT-Lite (arXiv:2104.05704) and the plain ViT (arXiv:2010.11929): networks with a class token."""

from cct_tf.machine.backend import keras
from cct_tf.models.classifier import TransformerClassifier


@keras.saving.register_keras_serializable("cct_tf")
class ViT(TransformerClassifier):
    """Vision Transformer with a class token, which has a position of its own.

    Args and call: as `TransformerClassifier`.
    """

    def _pool(self, tokens):
        return self.norm(tokens[:, 0])  # [B, 1 + N, D] -> [B, D]: only the class token is normalised
