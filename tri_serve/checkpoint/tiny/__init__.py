"""The tiny checkpoint: Tri's shape in 3.7 million parameters, trained to say something; in five formats."""

from tri_serve.checkpoint.tiny.derive import TINY_FORMATS, TinyFormat, export_tiny, tiny_checkpoint
from tri_serve.checkpoint.tiny.pairs import Pair, pairs

__all__ = ["TINY_FORMATS", "Pair", "TinyFormat", "export_tiny", "pairs", "tiny_checkpoint"]
