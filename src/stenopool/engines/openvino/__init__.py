"""The engine `openvino`: what runs on the CPUs of ordinary x86 machines.

Whisper runs by `kernels/` of our own. What else runs there runs on OpenVINO, which gave the engine
its name: wav2vec 2.0 (`engines.ctc`) and voice activity (`audio.vad_network`).
"""

from stenopool.engines.openvino.engine import OpenVINOEngine

__all__ = ["OpenVINOEngine"]
