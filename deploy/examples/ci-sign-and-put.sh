#!/usr/bin/env bash
# A pipeline's step behind a push: signs the pushed image with the pipeline's own key and stores the signature in the registry.
#
#   REGISTRY     host[:port]                     REPOSITORY   the image's name there
#   TAG          the tag that was pushed         KEY          fingerprint or mail address of the GnuPG key
#   USERNAME, PASSWORD   who may push            SCHEME       https (default) or http
#
# Needs skopeo, gpg, curl, jq. An image of several architectures is signed as what the tag names: its list.
set -euo pipefail
: "${REGISTRY:?}" "${REPOSITORY:?}" "${TAG:?}" "${KEY:?}" "${USERNAME:?}" "${PASSWORD:?}" "${SCHEME:=https}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tls_verify=true
[ "$SCHEME" = https ] || tls_verify=false

# Passwords go through files and pipes, so that no process listing shows them.
printf '%s' "$PASSWORD" | skopeo login --authfile "$work/auth.json" --tls-verify="$tls_verify" \
	--username "$USERNAME" --password-stdin "$REGISTRY" > /dev/null
escaped=$(printf '%s:%s' "$USERNAME" "$PASSWORD" | sed 's/[\\"]/\\&/g')
printf 'user = "%s"\n' "$escaped" > "$work/curl"

# The exact bytes of the manifest: the signature is over their digest.
skopeo inspect --raw --authfile "$work/auth.json" --tls-verify="$tls_verify" \
	"docker://$REGISTRY/$REPOSITORY:$TAG" > "$work/manifest.json"
digest=sha256:$(sha256sum < "$work/manifest.json" | cut -d ' ' -f 1)

# The reference is what clients will pull; it is part of what is signed.
skopeo standalone-sign "$work/manifest.json" "$REGISTRY/$REPOSITORY:$TAG" "$KEY" --output "$work/signature"

name=$digest@$(sha256sum < "$work/signature" | cut -c 1-32)
base64 -w 0 "$work/signature" > "$work/content"
jq -n --arg name "$name" --rawfile content "$work/content" \
	'{schemaVersion: 2, type: "atomic", name: $name, content: $content}' > "$work/signature.json"

curl --fail-with-body --silent --show-error --config "$work/curl" --upload-file "$work/signature.json" \
	"$SCHEME://$REGISTRY/extensions/v2/$REPOSITORY/signatures/$digest"
echo "signed $REGISTRY/$REPOSITORY:$TAG ($digest)"
