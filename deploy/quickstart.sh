#!/usr/bin/env bash
# From a fresh Debian 12 to quantization parameters: installs packages, builds calibd, starts a server on this machine,
# lets four workers stream the activations of a small CNN (tests/golden), prints what the server makes of them, starts the
# server anew on what it stored, stops.
# usage: deploy/quickstart.sh        as root, or as a user with sudo; can be run again and leaves nothing running
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

golden=tests/golden/digits_cnn
layers=(input conv1 relu1 conv2 relu2 fc1 relu3 logits)
session=digits-cnn

server=""
output=$(mktemp -d)
stop_server() {
  [ -n "$server" ] || return 0
  local process=$server
  server=""
  kill -TERM "$process" 2>/dev/null || true
  wait "$process"
}
trap 'stop_server; rm -rf "$output"' EXIT
trap 'exit 130' INT TERM

steps=0
step() {
  steps=$((steps + 1))
  printf '\n[%d/7] %s\n' "$steps" "$*"
}
# Prints a command as a person would type it, and runs it.
calibctl() {
  printf '$ calibctl %s\n' "$*"
  build/bin/calibctl "$@"
}

step "Install the packages that the build needs (deploy/packages.txt)"
bash deploy/install_packages.sh build runtime

step "Build calibd and calibctl into build/bin"
if [ ! -f build/build.ninja ]; then
  cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DCALIB_BUILD_TESTS=OFF -DCALIB_BUILD_BENCHMARKS=OFF \
    -Wno-dev --log-level=WARNING
fi
cmake --build build --target calibd calibctl

# Its standard output is one line: calibd ready grpc=HOST:PORT http=HOST:PORT ...
mkfifo "$output/ready"
start_server() {
  echo '$ calibd --listen 127.0.0.1:0 --http 127.0.0.1:0 --data-dir DATA'
  build/bin/calibd --listen 127.0.0.1:0 --http 127.0.0.1:0 --data-dir "$output/data" >"$output/ready" 2>"$output/log" &
  server=$!
  exec 3<"$output/ready"
  if ! read -r -t 30 ready <&3; then
    echo "quickstart: the server did not start; it said:" >&2
    cat "$output/log" >&2
    exit 1
  fi
  echo "$ready"
  CALIBD_SERVER=$(address grpc)
  export CALIBD_SERVER
  echo "\$ export CALIBD_SERVER=$CALIBD_SERVER"
}
address() { sed -n "s/.* $1=\([^ ]*\).*/\1/p" <<<"$ready"; }

step "Start a server on free ports of this machine; it keeps its sessions in a folder"
start_server

step "Let four workers stream the activations of ${#layers[@]} layers; each takes a quarter of every batch"
files=()
for layer in "${layers[@]}"; do files+=("$layer=$golden/$layer.npy"); done
calibctl session create "$session"
calibctl push "$session" "${files[@]}" --ranks 4

step "Ask for int8 parameters, then compare methods and bit widths, without another pass over the data"
calibctl qparams "$session" --method mse --dtype int8
calibctl compare "$session" "relu*" --dtype int8,int4 --methods minmax,percentile,mse
echo "Metrics, while the server runs: http://$(address http)/metrics"

step "Stop the server and start it anew: what was acknowledged is there"
build/bin/calibctl qparams "$session" --method mse --json >"$output/before"
stop_server
start_server
build/bin/calibctl qparams "$session" --method mse --json >"$output/after"
cmp "$output/before" "$output/after"
echo "calibctl qparams $session --method mse --json prints the same bytes as before"

step "Stop the server"
stop_server
echo "Done. The programs are in build/bin; README.md goes on from here."
