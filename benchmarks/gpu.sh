#!/usr/bin/env bash
# All measurements on one GPU, in one call of under ten minutes. Prints tables at the end.
#
#     benchmarks/gpu.sh            on a machine with a CUDA GPU of 40 GB or more
#     benchmarks/gpu.sh --tiny     every section with tiny shapes on the CPU, as a test of the script itself
#
# It needs this repository, torch and transformers. It needs neither a network nor an installed package.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
exec timeout 590 "${PYTHON:-python3}" benchmarks/gpu.py "$@"
