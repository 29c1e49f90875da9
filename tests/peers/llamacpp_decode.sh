#!/usr/bin/env bash
# Builds llama.cpp for this CPU beside the build (the sources that the llama-cpp-python sdist brings along; nothing else is downloaded
# while it builds), writes the bench model as GGUF, and measures it; arguments go to llamacpp_decode.py. Takes some ten minutes the
# first time. PYTHON is the Python that has torch and transformers, to make the bench model with.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
peers=$here/../../target/peers
version=0.3.36
python=${PYTHON:-$(command -v python3)}
native=$peers/llamacpp_native
source=$native/llama_cpp_python-$version/vendor/llama.cpp
[ -x "$native/bin/cmake" ] || { python3 -m venv "$native" && "$native/bin/pip" install --quiet cmake ninja scikit-build-core gguf==0.19.0; }
[ -x "$peers/llamacpp/bin/python" ] || { python3 -m venv "$peers/llamacpp" && "$peers/llamacpp/bin/pip" install --quiet "xllamacpp==2026.10.11549" "gguf==0.19.0"; }
PATH=$native/bin:$PATH
if [ ! -d "$source" ]; then
  pip download --quiet --no-deps --no-build-isolation --no-binary llama-cpp-python --dest "$native" "llama-cpp-python==$version"
  tar -xf "$native/llama_cpp_python-$version.tar.gz" -C "$native"
fi
[ -f "$native/build/build.ninja" ] || cmake -G Ninja -S "$source" -B "$native/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
  -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_EXAMPLES=OFF >"$native/cmake.log"
ninja -C "$native/build" llama-batched-bench >"$native/build.log"
# What it was compiled for; llama-batched-bench does not say.
[ -x "$native/system_info" ] || echo '#include <cstdio>
#include "llama.h"
int main() { puts(llama_print_system_info()); }' | c++ -x c++ - -I "$source/include" -I "$source/ggml/include" -x none "$native"/build/src/libllama.a \
  "$native"/build/ggml/src/libggml.a "$native"/build/ggml/src/libggml-cpu.a "$native"/build/ggml/src/libggml-base.a -fopenmp -lpthread -ldl -lm -o "$native/system_info"
PYTHONPATH=$here "$python" -c 'import bench_common; bench_common.bench_model()'
gguf=$peers/bench/model-bf16.gguf
[ -f "$gguf" ] || "$native/bin/python" "$here/make_bench_gguf.py" "$peers/bench/model" "$gguf"
exec "$peers/llamacpp/bin/python" "$here/llamacpp_decode.py" --bench "$native/build/bin/llama-batched-bench" --version "llama-cpp-python $version" --system-info "$("$native/system_info")" "$@" "$gguf"
