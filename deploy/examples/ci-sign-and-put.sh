#!/usr/bin/env bash
# A pipeline's step behind a push: signs the pushed image with the pipeline's own key and stores the signature in the registry.
#
#   REGISTRY     host[:port]                     REPOSITORY   the image's name there
#   TAG          the tag that was pushed         KEY          fingerprint or mail address of the GnuPG key
#   USERNAME, PASSWORD   who may push            SCHEME       https (default) or http
#   DIGEST       what the push wrote with --digestfile. Give it: without it the step signs whatever the tag names by now.
#
# Needs skopeo, gpg, curl, jq. Of an image of several architectures the list is signed, and clients that pull look for the
# signature of the one image that they choose: push such images with `skopeo copy --all --sign-by`, or let the registry sign them.
set -euo pipefail
: "${REGISTRY:?}" "${REPOSITORY:?}" "${TAG:?}" "${KEY:?}" "${USERNAME:?}" "${PASSWORD:?}" "${SCHEME:=https}" "${DIGEST:=}"

work=$(mktemp -d) # for this user only
trap 'rm -rf "$work"' EXIT
tls_verify=true
[ "$SCHEME" = https ] || tls_verify=false

# The password goes through pipes and files: on a command line every user of the machine could read it.
skopeo login --authfile "$work/auth.json" --tls-verify="$tls_verify" \
	--username "$USERNAME" --password-stdin "$REGISTRY" <<< "$PASSWORD" > "$work/log"
quoted=$USERNAME:$PASSWORD
quoted=${quoted//\\/\\\\}
quoted=${quoted//\"/\\\"}
printf 'user = "%s"\n' "$quoted" > "$work/curl"

# The exact bytes of the manifest: the signature is over their digest.
image=$REGISTRY/$REPOSITORY:$TAG
[ -z "$DIGEST" ] || image=$REGISTRY/$REPOSITORY@$DIGEST
skopeo inspect --raw --authfile "$work/auth.json" --tls-verify="$tls_verify" "docker://$image" > "$work/manifest.json"
digest=sha256:$(sha256sum < "$work/manifest.json" | cut -d ' ' -f 1)

# The reference is what clients will pull; it is part of what is signed.
skopeo standalone-sign "$work/manifest.json" "$REGISTRY/$REPOSITORY:$TAG" "$KEY" --output "$work/signature"

name=$digest@$(sha256sum < "$work/signature" | cut -c 1-32)
base64 -w 0 "$work/signature" > "$work/content"
jq -n --arg name "$name" --rawfile content "$work/content" \
	'{schemaVersion: 2, type: "atomic", name: $name, content: $content}' > "$work/signature.json"

# A token, as podman gets one: the registry may accept passwords nowhere else (registry.basic_auth).
token=$(curl --fail-with-body --silent --show-error --config "$work/curl" \
	"$SCHEME://$REGISTRY/token/?service=$REGISTRY&scope=repository:$REPOSITORY:push,pull" | jq -r .token)
printf 'header = "Authorization: Bearer %s"\n' "$token" > "$work/bearer"
curl --fail-with-body --silent --show-error --config "$work/bearer" --upload-file "$work/signature.json" \
	"$SCHEME://$REGISTRY/extensions/v2/$REPOSITORY/signatures/$digest"
echo "signed $REGISTRY/$REPOSITORY:$TAG ($digest)"
