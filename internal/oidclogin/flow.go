package oidclogin

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/oauth2"
)

const (
	// patience is the time that the person has to log in at the issuer.
	patience = 5 * time.Minute
	// redirectPath is the path of the redirect of the browser.
	redirectPath = "/callback"
)

// flow is one login at the issuer.
type flow struct {
	options Options
	oauth   oauth2.Config
	nonce   string
}

// device lets the person log in with a browser on another computer.
func (f flow) device(ctx context.Context) (*oauth2.Token, error) {
	if f.oauth.Endpoint.DeviceAuthURL == "" {
		return nil, errors.New("the issuer has no device flow")
	}
	response, err := f.oauth.DeviceAuth(ctx, oauth2.SetAuthURLParam("nonce", f.nonce))
	if err != nil {
		return nil, err
	}
	where := response.VerificationURI
	if response.VerificationURIComplete != "" {
		where = response.VerificationURIComplete
	}
	_, _ = fmt.Fprintf(f.options.Out, "Open %s on any computer, check that it shows the code %s, and log in.\n", where, response.UserCode)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return f.oauth.DeviceAccessToken(ctx, response)
}

// code lets the person log in with a browser on this computer, which the issuer redirects here.
func (f flow) code(ctx context.Context) (*oauth2.Token, error) {
	listener, err := f.listen(ctx)
	if err != nil {
		return nil, err
	}
	f.oauth.RedirectURL = "http://" + listener.Addr().String() + redirectPath
	state, verifier := rand.Text(), oauth2.GenerateVerifier()
	where := f.oauth.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("nonce", f.nonce))

	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answers := make(chan answer, 1)
	s := &http.Server{Handler: redirects(state, answers), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.Serve(listener) }()
	defer func() { // the browser gets its page
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = s.Shutdown(ending)
	}()

	_, _ = fmt.Fprintf(f.options.Out, "Log in with a browser on this computer:\n%s\n", where)
	if f.options.Browser != nil {
		if err := f.options.Browser(ctx, where); err != nil {
			_, _ = fmt.Fprintf(f.options.Out, "No browser could be opened (%v): open the address yourself.\n", err)
		}
	}
	select {
	case a := <-answers:
		if a.err != nil {
			return nil, a.err
		}
		return f.oauth.Exchange(ctx, a.code, oauth2.VerifierOption(verifier))
	case <-ctx.Done():
		return nil, fmt.Errorf("no login within %v", patience)
	}
}

// listen listens on a loopback address.
func (f flow) listen(ctx context.Context) (net.Listener, error) {
	address := f.options.Listen
	if address == "" {
		address = "127.0.0.1:0"
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().IsLoopback() {
		return nil, fmt.Errorf("listen: want a loopback address and a port, such as 127.0.0.1:8250, got %q", address)
	}
	return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
}

// answer is the result of a login at the issuer.
type answer struct {
	code string
	err  error
}

// redirects returns the handler of the issuer's redirect. It sends the first answer with the state; others, which any
// page in the browser can send, are refused.
func redirects(state string, answers chan<- answer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+redirectPath, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1 {
			http.Error(w, "This is not the login that the command waits for.", http.StatusBadRequest)
			return
		}
		a := answer{code: q.Get("code")}
		text := "You are logged in. Close this window and return to the command line.\n"
		if a.code == "" {
			a.err = fmt.Errorf("the issuer refused the login: %.200q %.500q", q.Get("error"), q.Get("error_description"))
			text = "The login failed. The command line has the reason.\n"
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Referrer-Policy", "no-referrer")
		_, _ = w.Write([]byte(text))
		select {
		case answers <- a:
		default: // the browser repeats it
		}
	})
	return mux
}
