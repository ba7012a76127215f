#!/bin/bash
# Operator mode with the full resolver, seen through the public Go libraries (nats.go, jwt, nkeys): tokens are pushed,
# looked up, listed, packed and deleted, and good, forged, expired, revoked and replayed logins tried. Prints where the
# answers of CANDIDATE differ from those of REFERENCE (a nats-server), and fails if they do. Needs Go.
#   run.sh CANDIDATE REFERENCE
set -euo pipefail
candidate=$(realpath "${1:?run.sh CANDIDATE REFERENCE}") reference=$(realpath "${2:?run.sh CANDIDATE REFERENCE}")
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
GOFLAGS="${GOFLAGS:--p=2}" go build -o "$scratch/claims" .
"$scratch/claims" "$reference" >"$scratch/reference"
"$scratch/claims" "$candidate" >"$scratch/candidate"
diff "$scratch/reference" "$scratch/candidate"
echo "claims: $(wc -l <"$scratch/reference") answers are the same"
