#!/usr/bin/env bash
# Writes the signatures of repositories to a directory. Serve it as a lookaside with a web server, or set it in registries.d as file://DIR,
# for clients that pull the same images from another registry, such as the upstream of this server.
#
#   REGISTRY             host[:port] of this server     SCHEME   https (default) or http
#   USERNAME, PASSWORD   an account that may pull       DIR      output directory, default: sigstore
#
# The arguments are names of repositories. Images in manifest lists are included. Requires curl and jq.
set -euo pipefail
: "${REGISTRY:?}" "${USERNAME:?}" "${PASSWORD:?}" "${SCHEME:=https}" "${DIR:=sigstore}"
[ $# -gt 0 ] || { echo "usage: $0 REPOSITORY..." >&2; exit 2; }

work=$(mktemp -d) # accessible to this user only
trap 'rm -rf "$work"' EXIT
quoted=$USERNAME:$PASSWORD # not on a command line, which every user of the machine can read
quoted=${quoted//\\/\\\\}
quoted=${quoted//\"/\\\"}
printf 'user = "%s"\n' "$quoted" > "$work/curl"
ask() { curl --fail-with-body --silent --show-error --config "$work/curl" "$@"; }

written=0
declare -A done=()
# write DIGEST writes the signatures of one manifest.
write() {
	local at=$DIR/$name@${1/:/=} n=0 status content
	[ -z "${done[$name@$1]:-}" ] || return 0 # already written for another tag or list
	done[$name@$1]=yes
	status=$(ask --write-out '%{http_code}' --output "$work/signatures" "$SCHEME://$REGISTRY/extensions/v2/$name/signatures/$1") ||
		{ [ "$status" = 404 ] && return; cat "$work/signatures" >&2; exit 1; } # images of a list may be absent
	jq -r '.signatures[].content' "$work/signatures" > "$work/contents"
	rm -f "$at"/signature-*
	while read -r content; do
		n=$((n + 1))
		mkdir -p "$at"
		base64 -d <<< "$content" > "$at/signature-$n"
	done < "$work/contents"
	written=$((written + n))
}

for name in "$@"; do
	last=
	while :; do # page by page
		ask --get --data-urlencode "last=$last" --data n=1000 --output "$work/tags" "$SCHEME://$REGISTRY/v2/$name/tags/list" ||
			{ cat "$work/tags" >&2; exit 1; }
		tags=$(jq -r '.tags[]' "$work/tags")
		[ -n "$tags" ] || break
		for tag in $tags; do
			ask --dump-header "$work/header" --output "$work/manifest" "$SCHEME://$REGISTRY/v2/$name/manifests/$tag"
			digest=$(tr -d '\r' < "$work/header" | awk 'tolower($1) == "docker-content-digest:" { print $2 }')
			write "$digest"
			for digest in $(jq -r '.manifests[]?.digest' "$work/manifest"); do
				write "$digest"
			done
			last=$tag
		done
	done
done
echo "$written signatures in $DIR"
