package dns

import (
	"fmt"
	"strings"
)

// DefaultDomain is the zone that names live in unless told otherwise.
const DefaultDomain = "weft.local."

const (
	maxLabel = 63
	maxName  = 253 // RFC 1035: 255 bytes on the wire
	// maxDomain leaves room for labels in front of the domain.
	maxDomain = 190
)

// ValidName checks a name that somebody wants to register and gives it in full:
// lower case, with the domain and the last dot. A name of one label is taken to be in the
// domain; one of several must end in it. Labels are 1 to 63 letters, digits,
// hyphens and underscores (Docker's names have them), and neither begin nor end
// with a hyphen.
func ValidName(name, domain string) (fqdn string, err error) {
	domain = canonical(domain)
	host := strings.TrimSuffix(strings.ToLower(name), ".")
	if host == "" {
		return "", fmt.Errorf("name %q: empty", name)
	}
	full := host + "."
	switch {
	case full == domain:
		return "", fmt.Errorf("name %q: is the domain itself", name)
	case strings.HasSuffix(full, "."+domain):
	case strings.Contains(host, "."):
		return "", fmt.Errorf("name %q: outside the domain, names end in .%s", name, strings.TrimSuffix(domain, "."))
	default:
		full += domain
	}
	if err := checkLabels(full); err != nil {
		return "", fmt.Errorf("name %q: %w", name, err)
	}
	return full, nil
}

// ValidPattern is [ValidName] that also takes "*." before a name, or before the
// domain, for all names below it that do not exist.
func ValidPattern(name, domain string) (fqdn string, err error) {
	rest, star := strings.CutPrefix(name, "*.")
	switch {
	case !star:
		return ValidName(name, domain)
	case canonical(rest) == canonical(domain):
		return "*." + canonical(domain), nil
	}
	if fqdn, err = ValidName(rest, domain); err != nil {
		return "", err
	}
	return "*." + fqdn, nil
}

// ValidDomain checks a domain for the mesh and gives it in lower case with the
// last dot.
func ValidDomain(domain string) (fqdn string, err error) {
	full := canonical(domain)
	if full == "." {
		return "", fmt.Errorf("domain %q: empty", domain)
	}
	if len(full) > maxDomain {
		return "", fmt.Errorf("domain %q: longer than %d characters", domain, maxDomain)
	}
	if err := checkLabels(full); err != nil {
		return "", fmt.Errorf("domain %q: %w", domain, err)
	}
	return full, nil
}

func checkLabels(full string) error {
	host := strings.TrimSuffix(full, ".")
	if len(host) > maxName {
		return fmt.Errorf("longer than %d characters", maxName)
	}
	for label := range strings.SplitSeq(host, ".") {
		switch {
		case label == "":
			return fmt.Errorf("has an empty label")
		case len(label) > maxLabel:
			return fmt.Errorf("label %q is longer than %d characters", label, maxLabel)
		case label[0] == '-' || label[len(label)-1] == '-':
			return fmt.Errorf("label %q begins or ends with a hyphen", label)
		}
		for _, c := range []byte(label) {
			if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return fmt.Errorf("label %q holds %q, use letters, digits, hyphens and underscores", label, rune(c))
			}
		}
	}
	return nil
}

// canonical gives a name in lower case with the last dot.
func canonical(name string) string {
	name = strings.ToLower(name)
	if !strings.HasSuffix(name, ".") {
		name += "."
	}
	return name
}
