#!/usr/bin/env bash
# Writes the signatures of repositories to a directory that a web server can serve as a lookaside, or that registries.d names as file://DIR:
# for clients that pull the same images from elsewhere, from the registry behind this one, say.
#
#   REGISTRY             host[:port] of this server     SCHEME   https (default) or http
#   USERNAME, PASSWORD   who may pull                   DIR      where to write; sigstore when it is not set
#
# The arguments are names of repositories. What each list names is looked at too. Needs curl and jq.
set -euo pipefail
: "${REGISTRY:?}" "${USERNAME:?}" "${PASSWORD:?}" "${SCHEME:=https}" "${DIR:=sigstore}"
[ $# -gt 0 ] || { echo "usage: $0 REPOSITORY..." >&2; exit 2; }

work=$(mktemp -d) # for this user only
trap 'rm -rf "$work"' EXIT
quoted=$USERNAME:$PASSWORD # not on a command line, where every user of the machine could read it
quoted=${quoted//\\/\\\\}
quoted=${quoted//\"/\\\"}
printf 'user = "%s"\n' "$quoted" > "$work/curl"
ask() { curl --fail-with-body --silent --show-error --config "$work/curl" "$@"; }

written=0
declare -A done=()
# write DIGEST: the signatures of one manifest
write() {
	local at=$DIR/$name@${1/:/=} n=0 status content
	[ -z "${done[$name@$1]:-}" ] || return 0 # another tag of it, or another list with it
	done[$name@$1]=yes
	status=$(ask --write-out '%{http_code}' --output "$work/signatures" "$SCHEME://$REGISTRY/extensions/v2/$name/signatures/$1") ||
		{ [ "$status" = 404 ] && return; cat "$work/signatures" >&2; exit 1; } # a list may name what is not there
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
