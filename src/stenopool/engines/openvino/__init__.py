"""Whisper on OpenVINO: graphs built from the weights, for the CPUs of ordinary x86 machines."""

from stenopool.engines.openvino.engine import OpenVINOEngine

__all__ = ["OpenVINOEngine"]
