#!/bin/bash
# nats-top and prometheus-nats-exporter, unchanged, against the broker and against nats-server with the same clients:
# nats-top must print the same lines (values apart), the exporter the same series. Fails if they differ.
#   run.sh CANDIDATE REFERENCE
# NATS_TOP and EXPORTER name the programs; without them they are looked for in PATH, and else built from their public
# modules, which needs Go and a module proxy that has them. Needs Python.
set -euo pipefail
candidate=$(realpath "${1:?run.sh CANDIDATE REFERENCE}") reference=$(realpath "${2:?run.sh CANDIDATE REFERENCE}")
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
program() { # NAME MODULE@VERSION
  command -v "$1" || { GOBIN=$scratch go install "$2" >&2 && echo "$scratch/$1"; }
}
export NATS_TOP=${NATS_TOP:-$(program nats-top github.com/nats-io/nats-top@v0.6.4)}
export EXPORTER=${EXPORTER:-$(program prometheus-nats-exporter github.com/nats-io/prometheus-nats-exporter@v0.20.1)}
exec python3 compare.py "$candidate" "$reference" "$scratch"
