#!/usr/bin/env bash
# Build an OpenCV wheel with CUDA TV-L1 (cv2.cuda.OpticalFlowDual_TVL1) from the source package on PyPI.
#
#   scripts/build-opencv-cuda.sh [ARCH] [OUT]
#
# ARCH  compute capability of the one GPU to build for, e.g. 9.0 (H100, H200), 8.6, 8.9; default: that of GPU 0
# OUT   folder for the wheel; default: ./opencv-cuda
#
# Environment: OPENCV_VERSION (default 5.0.0.93), PYTHON (default python3), JOBS (default: number of cores).
# Needs a CUDA toolkit with nvcc and NPP, a C++ compiler, and pip. See docs/opencv-cuda.md.
set -euo pipefail

python=${PYTHON:-python3}
version=${OPENCV_VERSION:-5.0.0.93}
arch=${1:-}
out=${2:-opencv-cuda}

fail() {
    echo "build-opencv-cuda: $1" >&2
    exit 1
}

command -v nvcc >/dev/null || fail "nvcc is not on PATH: install the CUDA toolkit and add its bin folder to PATH"
cuda=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
find "$cuda/" -name 'libnppc.so*' -print -quit | grep -q . ||
    fail "no NPP (libnppc.so) in $cuda: install it (Debian and Ubuntu: libnpp-dev-<CUDA version> of NVIDIA's repository)"
"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip: set PYTHON to one that has"
if [ -z "$arch" ]; then
    command -v nvidia-smi >/dev/null || fail "no GPU here to ask for its architecture: give it, e.g. $0 9.0"
    arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1)
fi

# cudaoptflow and what it needs; nothing that downloads models or plays videos
modules=core,imgproc,imgcodecs,flann,features,geometry,stereo,video,ximgproc,optflow
modules+=,cudev,cudaarithm,cudafilters,cudaimgproc,cudawarping,cudafeatures2d,cudaoptflow
modules+=,python_bindings_generator,python3
if [ "${version%%.*}" -lt 5 ]; then # names before OpenCV 5
    modules=${modules/,features,geometry,stereo,/,features2d,calib3d,}
fi

options=(
    -DWITH_CUDA=ON "-DCUDA_ARCH_BIN=$arch" -DCUDA_ARCH_PTX= "-DBUILD_LIST=$modules"
    -DWITH_CUBLAS=OFF -DWITH_CUFFT=OFF -DWITH_CUDNN=OFF -DOPENCV_DNN_CUDA=OFF
    -DWITH_NVCUVID=OFF -DWITH_NVCUVENC=OFF -DWITH_FFMPEG=OFF -DWITH_OPENCL=OFF
    -DBUILD_TESTS=OFF -DBUILD_PERF_TESTS=OFF
)

mkdir -p "$out"
CMAKE_ARGS="${options[*]}" CMAKE_BUILD_PARALLEL_LEVEL=${JOBS:-$(nproc)} MAKEFLAGS="-j${JOBS:-$(nproc)}" \
    "$python" -m pip wheel --no-deps --no-cache-dir --wheel-dir "$out" \
    --no-binary opencv-contrib-python-headless "opencv-contrib-python-headless==$version"

echo "Built $(ls "$out"/opencv_contrib_python_headless-*.whl)"
echo "Install: $python -m pip install --force-reinstall --no-deps $out/opencv_contrib_python_headless-*.whl"
echo "Check:   $python -c 'import cv2; print(cv2.cuda.OpticalFlowDual_TVL1, cv2.cuda.getCudaEnabledDeviceCount())'"
