"""How vLLM's log tells of its start. Pure."""

from __future__ import annotations

import re

from stackwright.domain.service import Step
from stackwright.engines.protocol import StartLog

START_LOG = StartLog(
    # Lines of 0.32.0's log. Words of what a step says of itself: the configuration that is logged first names
    # torch.compile and CUDA graphs also where neither is used. Profiling stands twice because compiling is a part of
    # it, and memory is told last.
    steps=(
        (re.compile(r"Starting to load model |Loading \w+ checkpoint shards"), Step.LOADING),
        (re.compile(r"Model loading took |Loading weights took "), Step.PROFILING),
        (
            re.compile(r"Starting torch\.compile|Dynamo bytecode transform time|for the compilation\.\.\."),
            Step.COMPILING,
        ),
        (re.compile(r"Available KV cache memory: |KV cache size: [0-9]|Initial profiling"), Step.PROFILING),
        (re.compile(r"Capturing (\w+ )?CUDA graphs|Graph capturing finished"), Step.CAPTURING),
        (re.compile(r"Starting vLLM server on |Application startup complete"), Step.OPENING),
    ),
    # The third line of the banner: what stands before the last one was said by an earlier start of the same service.
    banner=re.compile(r"█  version [0-9]"),
    # `(EngineCore pid=208) ERROR 11-21 03:30:18 [core.py:1510] `
    prefix=re.compile(r"(\(\w[\w.-]* pid=\d+\) ?)?([A-Z]+ [0-9-]+ [0-9:.]+ \[\w[\w.]*:\d+\] ?)?"),
)
