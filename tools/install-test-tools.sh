#!/usr/bin/env bash
# Installs the programs that the tests drive: on Debian (and its kin) as root with apt-get, only what is missing.
# Elsewhere it says what is missing and which tests will skip.
set -euo pipefail

# command, Debian package, what its absence costs
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
  "sqlite3:sqlite3:the test of the backup on SQLite skips"
)

missing=() packages=()
look() {
  missing=() packages=()
  local row command package cost
  for row in "${wanted[@]}"; do
    IFS=: read -r command package cost <<<"$row"
    command -v "$command" >/dev/null && continue
    missing+=("$command ($package): $cost")
    packages+=("$package")
  done
  # cgo wants the C library's headers beside the compiler.
  if [ ! -e /usr/include/stdlib.h ] && [ -e /etc/debian_version ]; then
    missing+=("stdlib.h (libc6-dev): go test -race cannot be built")
    packages+=(libc6-dev)
  fi
  # Debian keeps the database's own programs out of the PATH.
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

look
[ ${#missing[@]} -eq 0 ] && exit 0

if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  # Run level 1 keeps the packages from starting daemons: the tests start their own.
  export RUNLEVEL=1
  mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
  install() { apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >&2; }
  echo "installing: ${packages[*]}" >&2
  install || { apt-get update -qq </dev/null >&2 && install; } || true
  look
  [ ${#missing[@]} -eq 0 ] && exit 0
fi

echo "Missing on this machine:" >&2
printf '  %s\n' "${missing[@]}" >&2
