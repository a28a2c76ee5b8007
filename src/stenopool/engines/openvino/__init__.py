"""Whisper on OpenVINO: graphs built from the weights, for the CPUs of ordinary x86 machines."""

# ruff: noqa: E402  what is imported below imports OpenVINO
from stenopool import telemetry

telemetry.silence()

from stenopool.engines.openvino.engine import OpenVINOEngine

__all__ = ["OpenVINOEngine"]
