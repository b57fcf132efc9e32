"""CCT and CVT: networks that pool the sequence (arXiv:2104.05704)."""

from cct_tf.machine.backend import keras
from cct_tf.models.classifier import TransformerClassifier


@keras.saving.register_keras_serializable("cct_tf")
class CCT(TransformerClassifier):
    """Compact Convolutional Transformer, and with a patch tokenizer the Compact Vision Transformer.

    Args and call: as `TransformerClassifier`.
    """

    def _pool(self, tokens):
        return self.pooling(self.norm(tokens))  # [B, N, D] -> [B, D]

    def pooling_attention(self, images):
        """How much each token counts in the pooled vector.

        Args:
            images: float [B, H, W, 3], normalised.

        Returns:
            float32 [B, N], each row with sum 1; N tokens, row by row of the image.
        """
        return self.pooling.attention(self.norm(self._encode(images, training=False)))
