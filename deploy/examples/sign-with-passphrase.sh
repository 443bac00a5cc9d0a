#!/usr/bin/env bash
# A signing script like sign.sh, for a key with a passphrase.
#
# The passphrase is the first line of a file that only the server's user can read (chmod 600). The path is set here, because the
# server does not pass its environment to scripts.
set -euo pipefail

passphrase_file=/etc/countersign/signing-passphrase

skopeo standalone-sign "$1" "$REFERENCE" "$PULP_SIGNING_KEY_FINGERPRINT" \
	--passphrase-file "$passphrase_file" --output "$SIG_PATH" >&2
printf '{"signature_path": "%s"}\n' "$SIG_PATH"
