#!/usr/bin/env bash
# A signing script as sign.sh, for a key that is protected by a passphrase.
#
# The passphrase is the first line of a file that only the server's user can read (chmod 600). The server passes
# no variables of its own environment on, so the file's place is written here.
set -euo pipefail

passphrase_file=/etc/countersign/signing-passphrase

skopeo standalone-sign "$1" "$REFERENCE" "$PULP_SIGNING_KEY_FINGERPRINT" \
	--passphrase-file "$passphrase_file" --output "$SIG_PATH" >&2
printf '{"signature_path": "%s"}\n' "$SIG_PATH"
