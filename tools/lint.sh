#!/usr/bin/env bash
# Runs gofmt, go vet and golangci-lint at a pinned version. The linter is built once, with the installed Go, and stored outside the tree.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=v2.15.0
bin="${XDG_CACHE_HOME:-$HOME/.cache}/countersign/bin"
linter="$bin/golangci-lint-$version"

unformatted=$(git ls-files -co --exclude-standard '*.go' | while read -r file; do [ -e "$file" ] && echo "$file"; done | xargs -r gofmt -l)
if [ -n "$unformatted" ]; then
  printf 'gofmt would change:\n%s\n' "$unformatted" >&2
  exit 1
fi

if [ ! -x "$linter" ]; then
  echo "building golangci-lint $version (once; some minutes)" >&2
  building=$(mktemp -d)
  trap 'rm -rf "$building"' EXIT
  (cd "$building" && GOBIN="$building" GOFLAGS='' go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version")
  mkdir -p "$bin"
  mv "$building/golangci-lint" "$linter.new"
  mv "$linter.new" "$linter"
fi

go vet ./...
"$linter" run --timeout 10m ./...
