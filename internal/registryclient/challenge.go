package registryclient

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// challengeParam matches one parameter of a WWW-Authenticate header.
var challengeParam = regexp.MustCompile(`([a-zA-Z]+)="([^"]*)"`)

// bearerChallenge is a Bearer challenge of a registry.
type bearerChallenge struct {
	realm   *url.URL // of the token service
	service string
	scopes  []string
}

// parseChallenge reads the parameters of a Bearer challenge. It returns ErrNoService unless the realm is an http or
// https URL with a host.
func parseChallenge(text string) (bearerChallenge, error) {
	params := map[string]string{}
	for _, m := range challengeParam.FindAllStringSubmatch(text, -1) {
		params[strings.ToLower(m[1])] = m[2]
	}
	realm, err := url.Parse(params["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != "http" {
		return bearerChallenge{}, ErrNoService
	}
	return bearerChallenge{realm, params["service"], strings.Fields(params["scope"])}, nil
}

// firstBearer returns the first Bearer challenge of a response. ok is false if there is none or it is malformed.
func firstBearer(res *http.Response) (found bearerChallenge, ok bool) {
	for _, header := range res.Header.Values("WWW-Authenticate") {
		scheme, rest, _ := strings.Cut(header, " ")
		if strings.EqualFold(scheme, "Bearer") {
			found, err := parseChallenge(rest)
			return found, err == nil
		}
	}
	return bearerChallenge{}, false
}
