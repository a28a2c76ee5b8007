"""Silero's network on the inference library that is there: OpenVINO, else ONNX Runtime.

The numbers are the same; on x86 OpenVINO takes a third of the time.
"""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stenopool import telemetry

Array = NDArray[np.float32]
Outputs = tuple[Array, Array, Array]
Network = Callable[[Array, Array, Array], Outputs]
_NAMES = ("speech_probs", "hn", "cn")


def network(model: Path) -> Network:
    """A function of frames (frames, 576) and two states (1, 1, 128).

    It gives the probability of speech of each frame and the next states, all float32, and may be
    called from several threads.

    Args:
        model: path of the sequence ONNX export.
    """
    return _openvino(model) if importlib.util.find_spec("openvino") else _onnxruntime(model)


def _openvino(model: Path) -> Network:
    telemetry.silence()
    import openvino

    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(model), "CPU", options)
    idle: deque[openvino.InferRequest] = deque()

    def run(frames: Array, hidden: Array, cell: Array) -> Outputs:
        try:
            request = idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        request.infer({"input": frames, "h": hidden, "c": cell})
        probabilities, hidden, cell = (request.get_tensor(name).data.copy() for name in _NAMES)
        idle.append(request)
        return probabilities, hidden, cell

    return run


def _onnxruntime(model: Path) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # the arena would keep the largest call's memory
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(model), sess_options=options, providers=["CPUExecutionProvider"]
    )

    def run(frames: Array, hidden: Array, cell: Array) -> Outputs:
        probabilities, hidden, cell = session.run(
            list(_NAMES), {"input": frames, "h": hidden, "c": cell}
        )
        return probabilities, hidden, cell

    return run
