#!/usr/bin/env bash
set -euo pipefail

CHAT=Qwen/Qwen3-8B
CACHE="$HOME/.cache/huggingface"
export HF_TOKEN=hf_ThisIsNotARealToken00

docker rm -f chat embedder || true

docker run -d --name chat --runtime nvidia --gpus all \
  -v "$CACHE":/root/.cache/huggingface \
  --env "HF_TOKEN=$HF_TOKEN" \
  -p 8000:8000 \
  --ipc=host \
  vllm/vllm-openai:latest \
  --model "$CHAT" \
  --max_model_len 16384 \
  --gpu_memory_utilization=0.7 \
  --api-key "sk-not-a-real-key-1234"

# vectors for the search
docker run -d --name embedder --gpus '"device=0"' -p 8001:8000 vllm/vllm-openai:v0.32.0 \
  --model Qwen/Qwen3-Embedding-0.6B --task embed --gpu-memory-utilization 0.15
