package proxy

import (
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"regexp"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// signatureBody is the JSON format of a signature. See compatibility.md#signature-endpoint.
type signatureBody struct {
	SchemaVersion int    `json:"schemaVersion"`
	Type          string `json:"type"`
	Name          string `json:"name"`
	Content       string `json:"content"` // base64
}

// getSignatures handles GET of the signatures of a manifest. The list may be empty.
func (c *call) getSignatures() error {
	t, err := c.readableTarget()
	if err != nil {
		return err
	}
	m, err := c.Store.Serving.ServedManifest(c.r.Context(), t, c.ref)
	if fault.Is(err, fault.NotFound) {
		return c.manifestUnknown()
	} else if err != nil {
		return err
	}
	stored, err := c.Store.Serving.ServedSignatures(c.r.Context(), t, m.ID)
	if err != nil {
		return err
	}
	list := make([]signatureBody, len(stored))
	for i, g := range stored {
		list[i] = signatureBody{2, "atomic", g.Name, base64.StdEncoding.EncodeToString(g.Content)}
	}
	return c.writeJSON(http.StatusOK, map[string]any{"signatures": list})
}

// putSignature handles PUT of a signature. See compatibility.md#uploaded-signatures.
func (c *call) putSignature() error {
	t, err := c.writableTarget(access.Sign)
	if err != nil {
		return err
	}
	if _, err := c.Store.Serving.ServedManifest(c.r.Context(), t, c.ref); fault.Is(err, fault.NotFound) {
		return c.manifestUnknown()
	} else if err != nil {
		return err
	}
	body, err := c.readAll(
		pulp.MaxSignatureBody,
		newError(
			http.StatusRequestEntityTooLarge,
			"SIGNATURE_INVALID",
			"The signature is larger than 4,000,000 bytes.",
			nil,
		),
	)
	if err != nil {
		return err
	}
	raw, err := c.parseSignatureBody(body)
	if err != nil {
		return err
	}
	g, err := c.validator.Validate(c.r.Context(), digest.Digest(c.ref), raw)
	if fault.Is(err, fault.Invalid) {
		err = c.signatureInvalid(toFailure(err).message)
	}
	if err == nil {
		_, err = c.Store.Signatures.PutSignature(c.r.Context(), t.Repository.ID, digest.Digest(c.ref), g)
	}
	c.audit(
		"put signature",
		err,
		slog.String("digest", c.ref),
		slog.String("key", g.KeyID),
		slog.String("reference", g.Reference),
	)
	switch {
	case fault.Is(err, fault.NotFound):
		return c.manifestUnknown()
	case fault.Is(err, fault.TooLarge):
		return newError(
			http.StatusTooManyRequests,
			"TOOMANYREQUESTS",
			toFailure(err).message,
			map[string]string{"manifest_digest": c.ref},
		)
	case err != nil:
		return err
	}
	c.w.Header().Set("Location", "/extensions/v2/"+c.name+"/signatures/"+c.ref)
	c.writeEmpty(http.StatusCreated)
	return nil
}

func (c *call) signatureInvalid(message string) *failure {
	return newError(http.StatusBadRequest, "SIGNATURE_INVALID", message, map[string]string{"manifest_digest": c.ref})
}

var signatureName = regexp.MustCompile(`^sha256:[0-9a-f]{64}@[0-9a-f]{32}$`)

// parseSignatureBody verifies the fields of a PUT and returns the bytes of the signature. Failures about fields have
// the format of the REST API: see compatibility.md#signature-endpoint.
func (c *call) parseSignatureBody(body []byte) ([]byte, error) {
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return nil, c.signatureInvalid("signature invalid")
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, &failure{status: http.StatusBadRequest, code: "SIGNATURE_INVALID", message: "not an object",
			restBody: map[string][]string{
				"non_field_errors": {"Invalid data. Expected a dictionary, but got " + pythonType(value) + "."},
			}}
	}
	fields := signatureFields{object: object, bad: map[string][]string{}}
	content := fields.check()
	if len(fields.bad) > 0 {
		return nil, &failure{
			status: http.StatusBadRequest, code: "SIGNATURE_INVALID", message: "fields are wrong", restBody: fields.bad,
		}
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(content)
	if err != nil || base64.StdEncoding.EncodeToString(raw) != content { // the decoder ignores line breaks
		return nil, c.signatureInvalid("signature invalid")
	}
	return raw, nil
}

// signatureFields verifies the fields of a signature in JSON. bad contains Pulp's messages by field.
type signatureFields struct {
	object map[string]any
	bad    map[string][]string
}

// The messages of Django REST framework for absent fields and null.
const (
	fieldRequired = "This field is required."
	fieldNull     = "This field may not be null."
)

// check verifies all fields and returns the content.
func (s signatureFields) check() (content string) {
	s.checkVersion()
	if v := s.text("type"); s.bad["type"] == nil && v != "atomic" {
		s.bad["type"] = []string{`"` + v + `" is not a valid choice.`}
	}
	if v := s.text("name"); s.bad["name"] == nil && !signatureName.MatchString(v) {
		s.bad["name"] = []string{"This value does not match the required pattern."}
	}
	return s.text("content")
}

func (s signatureFields) checkVersion() {
	version, present := s.object["schemaVersion"]
	switch v, isNumber := version.(float64); {
	case !present:
		s.bad["schemaVersion"] = []string{fieldRequired}
	case version == nil:
		s.bad["schemaVersion"] = []string{fieldNull}
	case !isNumber:
		s.bad["schemaVersion"] = []string{"A valid integer is required."}
	case v < 2:
		s.bad["schemaVersion"] = []string{"Ensure this value is greater than or equal to 2."}
	case v > 2:
		s.bad["schemaVersion"] = []string{"Ensure this value is less than or equal to 2."}
	}
}

// text returns a string that must not be empty.
func (s signatureFields) text(key string) string {
	value, present := s.object[key]
	text, isText := value.(string)
	switch {
	case !present:
		s.bad[key] = []string{fieldRequired}
	case value == nil:
		s.bad[key] = []string{fieldNull}
	case !isText:
		s.bad[key] = []string{"Not a valid string."}
	case text == "":
		s.bad[key] = []string{"This field may not be blank."}
	}
	return text
}

// pythonType returns the name of a JSON value's type in Pulp's messages.
func pythonType(v any) string {
	switch v.(type) {
	case []any:
		return "list"
	case string:
		return "str"
	case float64:
		return "int"
	case bool:
		return "bool"
	}
	return "NoneType"
}
