#!/bin/bash
# the sample images of smoke.sh, into $ROOT/images
set -euo pipefail
. "$(dirname "$0")/../env.sh"
mkdir -p "$ROOT/images"
TOOLS="/bin/dash=/bin/sh /bin/cat /bin/ls /bin/sleep /usr/bin/env /usr/bin/id /usr/bin/curl /usr/bin/getent /bin/kill"
"$E2E" pack localhost/nats:test "$ROOT/images/nats.tar" --ldd --entrypoint /usr/local/bin/nats-server "$BIN/nats-server=/usr/local/bin/nats-server" $TOOLS
"$E2E" pack localhost/nats:test2 "$ROOT/images/nats2.tar" --ldd --env VERSION=2 --entrypoint /usr/local/bin/nats-server "$BIN/nats-server=/usr/local/bin/nats-server" $TOOLS
"$E2E" pack localhost/tools:test "$ROOT/images/tools.tar" --ldd --entrypoint /bin/sh "$BIN/kube=/usr/local/bin/kubectl" $TOOLS
