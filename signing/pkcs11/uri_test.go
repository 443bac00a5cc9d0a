package pkcs11

import (
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/fault"
)

func TestParseURI(t *testing.T) {
	t.Parallel()
	u, err := ParseURI("PKCS11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial=0a1b;token=My%3Btoken;id=%00%ff;object=a&b;type=private;slot-id=7?pin-source=file:/etc/pin%20file&module-path=/usr/lib/../lib/hsm.so")
	if err != nil {
		t.Fatal(err)
	}
	slot := *u.Slot
	u.Slot = nil
	want := URI{
		Module: "/usr/lib/hsm.so", PINFile: "/etc/pin file", Token: "My;token", Manufacturer: "SoftHSM project", Model: "SoftHSM v2", Serial: "0a1b",
		Object: "a&b", ID: "\x00\xff",
	}
	if u != want || slot != 7 {
		t.Errorf("ParseURI = %+v, slot %d; want %+v", u, slot, want)
	}
	for _, source := range []string{"file:///etc/pin", "file://localhost/etc/pin", "file:%2Fetc%2Fpin"} {
		u, err := ParseURI("pkcs11:token=a;id=%01?module-path=/m&pin-source=" + source)
		if err != nil || u.PINFile != "/etc/pin" {
			t.Errorf("pin-source %s = %s, %v", source, u.PINFile, err)
		}
	}
}

func TestParseURIRefuses(t *testing.T) {
	t.Parallel()
	const good = "pkcs11:token=a;object=b?module-path=/m"
	if _, err := ParseURI(good); err != nil {
		t.Fatal(err)
	}
	for text, why := range map[string]string{
		"":                                "begins with pkcs11:",
		"token=a;object=b?module-path=/m": "begins with pkcs11:",
		"pkcs11:token=a;object=b":         "module-path",
		"pkcs11:object=b?module-path=/m":  "which token",
		"pkcs11:token=a?module-path=/m":   "which key",
		"pkcs11:token=a;token=b;object=b?module-path=/m":     "twice",
		"pkcs11:token=a;object=b;type=public?module-path=/m": "private key",
		"pkcs11:token=a;object=b;slot-id=-1?module-path=/m":  "not a number",
		"pkcs11:token=a;object=b;color=red?module-path=/m":   "color",
		"pkcs11:token=a;object=%zz?module-path=/m":           "not percent-encoded",
		"pkcs11:token=a;object=%ff?module-path=/m":           "not valid text",
		"pkcs11:token=a;object=b c?module-path=/m":           "percent-encoded",
		"pkcs11:token=a;object?module-path=/m":               "name=value",
		"pkcs11:token=a;object=b?module-path=m":              "absolute",
		"pkcs11:token=a;object=b?module-path=/m%00":          "absolute",
		"pkcs11:token=a;object=b?module-name=m":              "module-name",
		good + "&pin-value=1234":                             "must not contain a PIN",
		good + "&pin-source=/etc/pin":                        "file:",
		good + "&pin-source=%7Ccat":                          "file:",
		good + "&pin-source=file:pin":                        "absolute",
		good + "&pin-source=file://elsewhere/etc/pin":        "absolute",
		"pkcs11:" + strings.Repeat("a", maxURI):              "bytes",
	} {
		_, err := ParseURI(text)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), why) {
			t.Errorf("ParseURI(%.80s) = %v, want %q", text, err, why)
		}
		if err != nil && strings.Contains(err.Error(), "1234") {
			t.Errorf("ParseURI(%.80s) repeats the PIN: %v", text, err)
		}
	}
}

func FuzzURI(f *testing.F) {
	f.Add("pkcs11:token=a;object=b?module-path=/m")
	f.Add("pkcs11:model=SoftHSM%20v2;serial=0a1b;id=%00%ff;slot-id=7?pin-source=file:/etc/pin&module-path=/m")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseURI(text)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("ParseURI = %v, which is not Invalid", err)
			}
			return
		}
		again := "pkcs11:" + u.tokenName() + ";" + u.keyName() + "?module-path=" + escaped(u.Module)
		if u.PINFile != "" {
			again += "&pin-source=file:" + escaped(u.PINFile)
		}
		v, err := ParseURI(again)
		if err != nil && len(again) > maxURI {
			return
		}
		if err != nil || v.tokenName() != u.tokenName() || v.keyName() != u.keyName() || v.Module != u.Module || v.PINFile != u.PINFile {
			t.Fatalf("%q reads as %+v, which written as %q reads as %+v, %v", text, u, again, v, err)
		}
	})
}

func escaped(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}
