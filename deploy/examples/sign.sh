#!/usr/bin/env bash
# A signing script: makes an atomic container signature of one manifest with skopeo and GnuPG.
#
# The server runs it once for every signature, in a new empty directory, with
#   $1                             path of the manifest
#   PULP_SIGNING_KEY_FINGERPRINT   the key to sign with
#   REFERENCE                      the docker reference for the signature
#   SIG_PATH                       path of the file to write
# The script prints one JSON object with the path of the signature, and nothing else, on standard output.
# Errors go to standard error, which the sign task shows.
set -euo pipefail

skopeo standalone-sign "$1" "$REFERENCE" "$PULP_SIGNING_KEY_FINGERPRINT" --output "$SIG_PATH" >&2
printf '{"signature_path": "%s"}\n' "$SIG_PATH"
