package proxy

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// FuzzSignatureBody checks that an accepted body of a signature PUT contains the canonical base64 of its content,
// that the registry accepts its own output, and that all other bodies are client errors.
func FuzzSignatureBody(f *testing.F) {
	d := digest.FromString("x")
	good := `{"schemaVersion":2,"type":"atomic","name":"` + string(
		d,
	) + "@" + strings.Repeat(
		"0",
		32,
	) + `","content":"xA0DAAgWqg=="}`
	for _, seed := range []string{
		good, "", "{}", "[]", "null", `"x"`, "1", good + good, strings.Replace(good, "==", "", 1), strings.Replace(good, "g==", "h==", 1),
		strings.Replace(good, "xA0D", `xA0D\n`, 1), strings.Replace(good, "content", "Content", 1), strings.Replace(good, `:2,`, `:2e0,`, 1),
		strings.Replace(good, `"xA0DAAgWqg=="`, `["xA0D"]`, 1), strings.Replace(good, "atomic", `\ud800`, 1), `{"schemaVersion":null,"type":5,"name":[],"content":{}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		c := &call{name: "acme/app", ref: string(d)}
		raw, err := c.parseSignatureBody(body)
		if err != nil {
			if got := toFailure(err); got.status != http.StatusBadRequest {
				t.Errorf("response %d, %v", got.status, err)
			}
			return
		}
		var sent struct{ Name, Content string }
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(body, &fields); err != nil {
			t.Fatalf("invalid JSON was accepted: %v", err)
		}
		if err := json.Unmarshal(fields["content"], &sent.Content); err != nil ||
			sent.Content != base64.StdEncoding.EncodeToString(raw) {
			t.Errorf("%q was taken as the base64 of %q, %v", fields["content"], raw, err)
		}
		if err := json.Unmarshal(fields["name"], &sent.Name); err != nil {
			t.Fatal(err)
		}
		written, err := json.Marshal(
			signatureBody{
				SchemaVersion: 2,
				Type:          "atomic",
				Name:          sent.Name,
				Content:       base64.StdEncoding.EncodeToString(raw),
			},
		)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := c.parseSignatureBody(written); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%s is read as %q, %v, want %q", written, again, err, raw)
		}
	})
}
