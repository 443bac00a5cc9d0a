#!/usr/bin/env bash
# A signing script: makes an atomic container signature of one manifest with skopeo and GnuPG.
#
# The server runs it once for every signature, in an empty directory of its own, with
#   $1                             the manifest's file
#   PULP_SIGNING_KEY_FINGERPRINT   the key to sign with
#   REFERENCE                      the docker reference that the signature is to claim
#   SIG_PATH                       where to write the signature
# It prints one JSON object that names the signature's file, and nothing else, on standard output.
# A failure's reason goes to standard error: the sign task shows it.
set -euo pipefail

skopeo standalone-sign "$1" "$REFERENCE" "$PULP_SIGNING_KEY_FINGERPRINT" --output "$SIG_PATH" >&2
printf '{"signature_path": "%s"}\n' "$SIG_PATH"
