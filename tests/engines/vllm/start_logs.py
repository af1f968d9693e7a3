"""Logs of starts on GPUs, in the words of four releases' sources, and the figures that they print."""

from __future__ import annotations

# 0.33.0: entrypoints/common/startup.py, v1/engine/core.py, v1/worker/gpu_worker.py, v1/core/kv_cache_utils.py.
NEWEST = """\
engine-1  | (APIServer pid=1) INFO 11-28 10:00:00 [startup.py:59]  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.33.0
engine-1  | (APIServer pid=1) INFO 11-28 10:00:00 [startup.py:96] non-default args: {'model': 'Qwen/Qwen3-8B', \
'api_key': ['sk-very-secret'], 'max_model_len': 16384, 'gpu_memory_utilization': 0.9, 'max_num_seqs': 64, \
'max_num_batched_tokens': 2048, 'download_dir': '/home/you/models'}
engine-1  | (EngineCore pid=90) INFO 11-28 10:00:09 [core.py:140] Initializing a V1 LLM engine (v0.33.0) with \
config: \
model='Qwen/Qwen3-8B', speculative_config=None, dtype=torch.bfloat16, max_seq_len=16384, tensor_parallel_size=1, \
pipeline_parallel_size=1, data_parallel_size=1, decode_context_parallel_size=1, quantization=None, \
enforce_eager=False, kv_cache_dtype=auto, device_config=cuda, enable_prefix_caching=True
engine-1  | (EngineCore pid=90) INFO 11-28 10:00:40 [model_runner.py:429] Model loading took 15.27 GiB memory and \
9.1 \
seconds
engine-1  | (EngineCore pid=90) INFO 11-28 10:01:10 [backends.py:418] Compiling a graph for compile range (1, 2048) \
takes 20.10 s
engine-1  | (EngineCore pid=90) INFO 11-28 10:01:20 [gpu_model_runner.py:6410] Estimated CUDA graph memory: 0.45 \
GiB total
engine-1  | (EngineCore pid=90) INFO 11-28 10:01:21 [gpu_worker.py:773] Available KV cache memory: 4.71 GiB
engine-1  | (EngineCore pid=90) INFO 11-28 10:01:21 [kv_cache_utils.py:1148] GPU KV cache size: 34,288 tokens, \
Maximum \
concurrency for 16,384 tokens per request: 2.09x
engine-1  | (EngineCore pid=90) INFO 11-28 10:01:30 [model_runner.py:1164] Graph capturing finished in 8 secs, took \
0.51 GiB
engine-1  | (EngineCore pid=90) INFO 11-28 10:01:30 [gpu_worker.py:1066] Free memory on device (23.31/23.58 GiB) on \
startup. Desired GPU memory utilization is (0.9, 21.22 GiB). Actual usage is 15.46 GiB for consumed memory (weights \
+ \
non-torch), 1.05 GiB for peak activation, and 0.51 GiB for CUDAGraph memory. Replace gpu_memory_utilization config \
with \
`--kv-cache-memory=4900000000` (4.56 GiB) to fit into requested memory.
engine-1  | (APIServer pid=1) INFO:     Application startup complete.
"""

# 0.11.0 on two ranks: v1/worker/gpu_worker.py and gpu_model_runner.py, the last line with VLLM_LOGGING_LEVEL=DEBUG.
TWO_RANKS = """\
(APIServer pid=7) INFO 10-01 08:00:00 [api_server.py:1896] vLLM API server version 0.11.0
(APIServer pid=7) INFO 10-01 08:00:00 [utils.py:233] non-default args: {'model_tag': 'Qwen/Qwen3-32B', \
'tensor_parallel_size': 2, 'kv_cache_dtype': 'fp8', 'speculative_config': {'method': 'mtp', \
'num_speculative_tokens': 2}}
(EngineCore_DP0 pid=9) INFO 10-01 08:00:02 [scheduler.py:205] Chunked prefill is enabled with \
max_num_batched_tokens=8192.
(Worker_TP0 pid=11) INFO 10-01 08:01:00 [gpu_model_runner.py:2653] Model loading took 30.5847 GiB and 60.1 seconds
(Worker_TP1 pid=12) INFO 10-01 08:01:00 [gpu_model_runner.py:2653] Model loading took 30.5849 GiB and 60.2 seconds
(Worker_TP1 pid=12) INFO 10-01 08:01:09 [backends.py:161] Directly load the compiled graph(s) for dynamic shape \
from the \
cache, took 5.1 s
(Worker_TP0 pid=11) INFO 10-01 08:01:20 [gpu_worker.py:298] Available KV cache memory: 36.30 GiB
(Worker_TP1 pid=12) INFO 10-01 08:01:20 [gpu_worker.py:298] Available KV cache memory: 36.27 GiB
(EngineCore_DP0 pid=9) INFO 10-01 08:01:21 [kv_cache_utils.py:1087] GPU KV cache size: 594,240 tokens
(EngineCore_DP0 pid=9) INFO 10-01 08:01:21 [kv_cache_utils.py:1091] Maximum concurrency for 40,960 tokens per \
request: \
14.51x
(Worker_TP0 pid=11) DEBUG 10-01 08:01:40 [gpu_worker.py:393] Free memory on device (78.70/79.19 GiB) on startup. \
Desired \
GPU memory utilization is (0.9, 71.27 GiB). Actual usage is 30.58 GiB for weight, 3.85 GiB for peak activation, \
0.55 GiB \
for non-torch memory, and 0.98 GiB for CUDAGraph memory.
(EngineCore_DP0 pid=9) INFO 10-01 08:01:41 [core.py:218] init engine (profile, create kv cache, warmup model) took \
41.0 \
seconds
"""

# 0.8.5, the first engine: worker/worker.py, executor/executor_base.py, model_runner.py.
FIRST_ENGINE = """\
INFO 05-02 09:00:00 [api_server.py:1043] vLLM API server version 0.8.5
INFO 05-02 09:00:00 [api_server.py:1044] args: Namespace(host=None, port=8000, \
model='/srv/models/Qwen2.5-7B-Instruct', \
max_model_len=8192, block_size=16, gpu_memory_utilization=0.9, max_num_batched_tokens=None, enforce_eager=False, \
tensor_parallel_size=1, compilation_config=None)
INFO 05-02 09:00:05 [llm_engine.py:240] Initializing a V0 LLM engine (v0.8.5) with config: \
model='/srv/models/Qwen2.5-7B-Instruct', dtype=torch.float16, max_seq_len=8192, tensor_parallel_size=1, \
enforce_eager=False, kv_cache_dtype=auto, device_config=cuda
INFO 05-02 09:00:30 [model_runner.py:1140] Model loading took 14.2487 GiB and 12.5 seconds
INFO 05-02 09:00:35 [worker.py:287] Memory profiling takes 1.50 seconds
INFO 05-02 09:00:35 [worker.py:287] the current vLLM instance can use total_gpu_memory (23.68GiB) x \
gpu_memory_utilization (0.90) = 21.31GiB
INFO 05-02 09:00:35 [worker.py:287] model weights take 14.25GiB; non_torch_memory takes 0.06GiB; PyTorch activation \
peak \
memory takes 1.42GiB; the rest of the memory reserved for KV Cache is 5.59GiB.
INFO 05-02 09:00:35 [executor_base.py:112] # cuda blocks: 6537, # CPU blocks: 4681
INFO 05-02 09:00:35 [executor_base.py:117] Maximum concurrency for 8192 tokens per request: 12.77x
INFO 05-02 09:01:00 [model_runner.py:1592] Graph capturing finished in 20 secs, took 0.23 GiB
INFO:     Application startup complete.
"""

# 0.29.0: v1/worker/utils.py, before anything is loaded.
NO_ROOM = """\
(APIServer pid=1) INFO 11-28 10:00:00 [api_utils.py:347]  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.29.0
(APIServer pid=1) INFO 11-28 10:00:00 [api_utils.py:286] non-default args: {'model': 'Qwen/Qwen3-8B'}
(EngineCore pid=90) ERROR 11-28 10:00:20 [core.py:999] ValueError: Free memory on device cuda:0 (3.20/23.58 GiB) on \
startup is less than desired GPU memory utilization (0.92, 21.69 GiB). Decrease GPU memory utilization or reduce GPU \
memory used by other processes.
"""
