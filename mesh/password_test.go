package mesh

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func TestPasswordStrength(t *testing.T) {
	for _, tt := range []struct{ password, weak string }{
		{"correct horse battery staple", ""},
		{"tr0ub4dor&3-xkcd", ""},
		{"9f86d081884c", ""},
		{"8317462950318274", ""},
		{"Zürich-Öl-straße", ""},
		{"short", "fewer than 12"},
		{"elevenchars", "fewer than 12"},
		{"öäüöäüöäüöä", "fewer than 12"},
		{"831746295031", "only digits"},
		{"aaaaaaaaaaaaaaaa", "different characters"},
		{"abababababababab", "different characters"},
		{"0000000000000000", "different characters"},
		{"password1234", "common words"},
		{"PassWord-Admin-1", "common words"},
		{"abcdefabcdef", "common words"},
		{"abcdefghijklmnopqrst", "common words"},
		{"1234567890123456", "common words"},
		{"fedcba9876543210", "common words"},
		{"xk3v9qxk3v9q", "common words"},
		{"weftweftmesh-1", "common words"},
	} {
		got := weakness(tt.password)
		if (got == "") != (tt.weak == "") || !strings.Contains(got, tt.weak) {
			t.Errorf("weakness(%q) = %q, want %q", tt.password, got, tt.weak)
		}
	}
}

func TestSecretFromPassword(t *testing.T) {
	_, err := SecretFromPassword("password1234", false)
	weak, ok := errors.AsType[*WeakPasswordError](err)
	if !ok || !strings.Contains(weak.Hint(), "--weak-password") {
		t.Errorf("weak password: %v", err)
	}
	if _, err := SecretFromPassword("", true); err == nil {
		t.Error("empty password was forced")
	}
	// Every release must come to the same secret, or a mesh splits when it is upgraded.
	s, err := SecretFromPassword("password1234", true)
	if err != nil {
		t.Fatal(err)
	}
	const want = "6c1d705606bd87fa4773c48f6ba1e2a972404e417e73432400e4eec0edbda788"
	if got := hex.EncodeToString(s.Bytes()); got != want {
		t.Errorf("secret of the password is %s, want %s", got, want)
	}
}

func FuzzWeakness(f *testing.F) {
	f.Add("correct horse battery staple")
	f.Add("\xff\x00aaa")
	f.Fuzz(func(t *testing.T, pw string) {
		if len(pw) < 1000 && weakness(pw) == "" && len(pw) < minPassword {
			t.Errorf("%q passes", pw)
		}
	})
}
