#!/bin/sh
# Signs a tag of a push repository and waits for the end of the task. For CI jobs that have a job token or an id token.
#
#   REGISTRY=registry.example.com JOB_TOKEN=… ci-sign.sh team/app countersign 1.0
#
# SCHEME is https unless set. It needs curl and jq.
set -eu
repository=$1 service=$2 tag=$3
server=${SCHEME:-https}://$REGISTRY

# call METHOD PATH [BODY]
call() {
	curl -sSf --user "oidc:$JOB_TOKEN" --request "$1" --header 'Content-Type: application/json' \
		${3:+--data "$3"} "$server$2"
}

api=/pulp/api/v3
href=$(call GET "$api/repositories/container/container-push/?name=$repository" | jq -er '.results[0].pulp_href')
key=$(call GET "$api/signing-services/?name=$service" | jq -er '.results[0].pulp_href')
body=$(jq -n --arg key "$key" --arg tag "$tag" '{manifest_signing_service: $key, tags_list: [$tag]}')
answer=$(call POST "${href}sign/" "$body")
task=$(printf '%s' "$answer" | jq -er .task)

while :; do
	answer=$(call GET "$task")
	case $(printf '%s' "$answer" | jq -r .state) in
	completed) exit 0 ;;
	waiting | running) sleep 1 ;;
	*)
		printf '%s' "$answer" | jq -r '.error.description // .state' >&2
		exit 1
		;;
	esac
done
