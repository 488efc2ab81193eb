#!/usr/bin/env bash
# Everything worth measuring on one GPU, in one call of under ten minutes; its own table comes last.
#
#     benchmarks/gpu.sh            on a machine with a CUDA GPU of 40 GB or more
#     benchmarks/gpu.sh --tiny     every section with tiny shapes on the CPU, to see that the script itself works
#
# It has not been run on a GPU yet: only --tiny has. It needs this repository, torch and transformers, and no network;
# the package need not be installed.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
exec timeout 590 "${PYTHON:-python3}" benchmarks/gpu.py "$@"
