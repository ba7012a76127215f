#!/bin/bash
# Builds everything that the clusters need, from Go modules and Debian packages only, into $BIN:
# kube (and its symlinks), etcd, coredns, pause, containerd, runc, cni/*, nats-server, kubeadm, kind, helm.
# Idempotent: what is built by this very recipe is not built again. BUILD_GOFLAGS: more flags for Go.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=${K8S_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/starling-kubernetes}
BIN=${K8S_BIN:-$ROOT/bin}
export GOMODCACHE=${GOMODCACHE:-$ROOT/gomod} GOCACHE=${GOCACHE:-$ROOT/gocache}
export GOFLAGS="-buildvcs=false -modcacherw -trimpath ${BUILD_GOFLAGS:-}" GOTOOLCHAIN=local
K8S=1.36.3
CONTAINERD=v2.4.2 RUNC=v1.5.2 CNI=v1.9.1 NATS=v2.15.2 HELM=v4.3.1 KIND=v0.33.0
mkdir -p "$BIN/cni"
t0=$SECONDS; step() { echo "[$((SECONDS - t0))s] $*"; }

need=
for c in nft:nftables openssl:openssl curl:curl gcc:gcc pkg-config:pkg-config iptables:iptables; do command -v "${c%%:*}" >/dev/null || need+=" ${c#*:}"; done
[ -e /usr/include/seccomp.h ] || need+=" libseccomp-dev"
if [ -n "$need" ]; then
  step "Debian packages:$need"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $need >/dev/null
fi

# a CI cache needs $BIN only (120 MB as tar.zst)
STAMP=$({ go version; grep -v '^ *#' "$HERE/build.sh"; cd "$HERE/gomod"; cat go.mod go.sum cmd/*/*.go; } | sha256sum | cut -c1-64)
if [ "$(cat "$BIN/.stamp" 2>/dev/null)" = "$STAMP" ]; then step "already built"; exit 0; fi
rm -f "$BIN/.stamp"

# (works without a module of our own: these modules have no replace lines)
inst() { # dir tags ldflags pkg@version...
  local dir=$1 tags=$2 ld=$3; shift 3
  GOBIN=$dir go install -tags "$tags" -ldflags "-s -w $ld" "$@"
}

step "kube (apiserver, controller-manager, scheduler, kubelet, kube-proxy, kubectl in one), etcd, coredns, pause"
V=k8s.io/component-base/version CV=k8s.io/client-go/pkg/version
LD="-s -w"
for p in $V $CV; do
  LD+=" -X $p.gitVersion=v$K8S -X $p.gitMajor=1 -X $p.gitMinor=$(echo $K8S | cut -d. -f2) -X $p.gitTreeState=clean -X $p.gitCommit=0000000000000000000000000000000000000000 -X $p.buildDate=1970-01-01T00:00:00Z"
done
(cd "$HERE/gomod" && CGO_ENABLED=0 go build -ldflags "$LD" -o "$BIN/" ./cmd/...)
for c in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do ln -sf kube "$BIN/$c"; done

step "containerd $CONTAINERD"
CGO_ENABLED=0 inst "$BIN" "no_btrfs no_devmapper no_zfs no_tracing urfave_cli_no_docs" \
  "-X github.com/containerd/containerd/v2/version.Version=$CONTAINERD" \
  github.com/containerd/containerd/v2/cmd/{containerd,ctr,containerd-shim-runc-v2}@$CONTAINERD

step "runc $RUNC"
CGO_ENABLED=1 inst "$BIN" "seccomp urfave_cli_no_docs" "-X main.version=${RUNC#v}" github.com/opencontainers/runc@$RUNC

step "CNI plugins $CNI"
CGO_ENABLED=0 inst "$BIN/cni" "" "-X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=$CNI" \
  github.com/containernetworking/plugins/plugins/{main/ptp,main/bridge,main/loopback,ipam/host-local,meta/portmap}@$CNI

step "nats-server $NATS (of the smoke test, and the measure of the differential scripts)"
CGO_ENABLED=0 inst "$BIN" "" "" github.com/nats-io/nats-server/v2@$NATS

step "kubeadm, kind $KIND"
(cd "$HERE/gomod" && CGO_ENABLED=0 go build -ldflags "$LD" -o "$BIN/" k8s.io/kubernetes/cmd/kubeadm)
CGO_ENABLED=0 inst "$BIN" "" "" sigs.k8s.io/kind@$KIND

step "helm $HELM"
CGO_ENABLED=0 inst "$BIN" "" "-X helm.sh/helm/v4/internal/version.version=$HELM" helm.sh/helm/v4/cmd/helm@$HELM
echo "$STAMP" >"$BIN/.stamp"
step "done"
ls -lh "$BIN" "$BIN/cni" | awk 'NF>8{print $5, $9}'
