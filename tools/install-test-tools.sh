#!/usr/bin/env bash
# Installs the programs that the tests run. On Debian and its derivatives, as root, it installs missing packages with apt-get. On other systems it lists the
# missing programs and the tests that will skip. The clients in tools/clients are built from source on every system, once for each version, and kept outside
# the tree: the first run takes minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# command:Debian package:consequence if it is missing
wanted=(
  "gcc:gcc:go test -race cannot be built"
  "podman:podman:the tests with podman skip"
  "skopeo:skopeo:the tests that sign with a script, and those with skopeo, skip"
  "buildah:buildah:the tests with buildah skip"
  "dockerd:docker.io:the tests with docker skip"
  "docker:docker.io:the tests with docker skip"
  "gpg:gnupg:the tests that sign with a script skip"
  "gpg-agent:gpg-agent:the tests that sign with a script skip"
  "jq:jq:the test of the pipeline step skips"
  "curl:curl:the test of the pipeline step skips"
  "softhsm2-util:softhsm2:the tests with keys in tokens skip"
  "redis-server:redis-server:the tests of the queue on Redis skip"
  "nginx:nginx-light:the test of TLS in front skips"
  "docker-compose:docker-compose:the test of the compose file skips"
  "systemd-analyze:systemd:the test of the systemd units skips"
  "slapd:slapd:the tests of LDAP skip"
  "sqlite3:sqlite3:the test of the backup on SQLite skips"
)

missing=() packages=()
look() {
  missing=() packages=()
  local row command package cost
  for row in "${wanted[@]}"; do
    IFS=: read -r command package cost <<<"$row"
    # Debian installs daemons outside the PATH of ordinary users.
    PATH="$PATH:/usr/sbin" command -v "$command" >/dev/null && continue
    missing+=("$command ($package): $cost")
    packages+=("$package")
  done
  # cgo needs the C library's headers.
  if [ ! -e /usr/include/stdlib.h ] && [ -e /etc/debian_version ]; then
    missing+=("stdlib.h (libc6-dev): go test -race cannot be built")
    packages+=(libc6-dev)
  fi
  # Debian installs the programs of PostgreSQL outside the PATH.
  if ! command -v postgres >/dev/null && ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
    missing+=("postgres (postgresql): the tests of the store on PostgreSQL skip")
    packages+=(postgresql)
  fi
  # TLS roots, for fetching Go modules.
  if [ ! -e /etc/ssl/certs/ca-certificates.crt ] && [ -e /etc/debian_version ]; then
    missing+=("ca-certificates: modules cannot be fetched")
    packages+=(ca-certificates)
  fi
}

# Each client is a module in tools/clients, which pins the client and its dependencies.
bin="${XDG_CACHE_HOME:-$HOME/.cache}/countersign/bin"
building=
trap 'rm -rf "$building"' EXIT
build() {
  local client=$1 module=tools/clients/$1 path version
  path=$(awk '$1 == "tool" { print $2 }' "$module/go.mod")
  version=$(awk -v path="$path/" '$2 ~ /^v/ && index(path, $1 "/") == 1 { print $2 }' "$module/go.mod")
  [ -x "$bin/$client-$version" ] && return 0
  echo "building $client $version (once; some minutes)" >&2
  mkdir -p "$bin" || return 1
  building=$(mktemp -d "$bin/building.XXXXXX") || return 1
  GOWORK=off GOFLAGS='' CGO_ENABLED=0 go build -C "$module" -trimpath -buildvcs=false -ldflags='-s -w' -o "$building/" "$path" &&
    mv "$building/$client" "$bin/$client-$version"
  rm -rf "$building"
  [ -x "$bin/$client-$version" ]
}

look
if [ ${#missing[@]} -gt 0 ] && command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  # Run level 1 keeps the packages from starting daemons: the tests start their own.
  export RUNLEVEL=1
  mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
  install() { apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >&2; }
  echo "installing: ${packages[*]}" >&2
  install || { apt-get update -qq </dev/null >&2 && install; } || true
  look
fi

# The clients come after the packages, which may be needed to fetch modules. If a client cannot be built, only its own tests skip.
for client in crane oras helm cosign; do
  build "$client" || missing+=("$client (COULD NOT BE BUILT, see above): the tests with $client skip")
done
# The tests build the conformance suite themselves. Its modules are fetched here, so that the tests need no network.
go mod download -C tools/clients/conformance || missing+=("the OCI conformance suite (COULD NOT BE FETCHED, see above): its tests fail")

[ ${#missing[@]} -eq 0 ] && exit 0
echo "Missing on this machine:" >&2
printf '  %s\n' "${missing[@]}" >&2
