"""Whisper on PyTorch: the reference for the other engines, and speculative decoding."""

from stenopool.engines.torch.engine import TorchEngine

__all__ = ["TorchEngine"]
