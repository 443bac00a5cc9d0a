#!/usr/bin/env bash
# A pipeline step after a push: signs the pushed image with the pipeline's own key and stores the signature in the registry.
#
#   REGISTRY     host[:port]                     REPOSITORY   name of the image there
#   TAG          the pushed tag                  KEY          fingerprint or mail address of the GnuPG key
#   USERNAME, PASSWORD   an account that may push        SCHEME   https (default) or http
#   DIGEST       the digest from the push's --digestfile. Without it the step signs the image that the tag names now, which may be another.
#
# Requires skopeo, gpg, curl and jq. For an image of several architectures this signs only the list, while clients check the signature of the
# image that they choose: push such images with `skopeo copy --all --sign-by`, or let the registry sign them.
set -euo pipefail
: "${REGISTRY:?}" "${REPOSITORY:?}" "${TAG:?}" "${KEY:?}" "${USERNAME:?}" "${PASSWORD:?}" "${SCHEME:=https}" "${DIGEST:=}"

work=$(mktemp -d) # accessible to this user only
trap 'rm -rf "$work"' EXIT
tls_verify=true
[ "$SCHEME" = https ] || tls_verify=false

# Pass the password by pipes and files: every user of the machine can read command lines.
skopeo login --authfile "$work/auth.json" --tls-verify="$tls_verify" \
	--username "$USERNAME" --password-stdin "$REGISTRY" <<< "$PASSWORD" > "$work/log"
quoted=$USERNAME:$PASSWORD
quoted=${quoted//\\/\\\\}
quoted=${quoted//\"/\\\"}
printf 'user = "%s"\n' "$quoted" > "$work/curl"

# Fetch the exact bytes of the manifest: the signature contains their digest.
image=$REGISTRY/$REPOSITORY:$TAG
[ -z "$DIGEST" ] || image=$REGISTRY/$REPOSITORY@$DIGEST
skopeo inspect --raw --authfile "$work/auth.json" --tls-verify="$tls_verify" "docker://$image" > "$work/manifest.json"
digest=sha256:$(sha256sum < "$work/manifest.json" | cut -d ' ' -f 1)

# The signature contains the reference by which clients pull.
skopeo standalone-sign "$work/manifest.json" "$REGISTRY/$REPOSITORY:$TAG" "$KEY" --output "$work/signature"

name=$digest@$(sha256sum < "$work/signature" | cut -c 1-32)
base64 -w 0 "$work/signature" > "$work/content"
jq -n --arg name "$name" --rawfile content "$work/content" \
	'{schemaVersion: 2, type: "atomic", name: $name, content: $content}' > "$work/signature.json"

# Get a token, as podman does: elsewhere the registry may accept no passwords (registry.basic_auth).
token=$(curl --fail-with-body --silent --show-error --config "$work/curl" \
	"$SCHEME://$REGISTRY/token/?service=$REGISTRY&scope=repository:$REPOSITORY:push,pull" | jq -r .token)
printf 'header = "Authorization: Bearer %s"\n' "$token" > "$work/bearer"
curl --fail-with-body --silent --show-error --config "$work/bearer" --upload-file "$work/signature.json" \
	"$SCHEME://$REGISTRY/extensions/v2/$REPOSITORY/signatures/$digest"
echo "signed $REGISTRY/$REPOSITORY:$TAG ($digest)"
