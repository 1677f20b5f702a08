package mesh

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// WeakPasswordError refuses a password that can be guessed.
type WeakPasswordError struct {
	Reason string // e.g. "it has only digits"
}

func (e *WeakPasswordError) Error() string { return "weak password: " + e.Reason }

// Hint tells the operator what to do.
func (e *WeakPasswordError) Hint() string {
	return "take a few random words, join by token, or force this one with --weak-password"
}

const (
	minPassword = 12 // characters
	minDigits   = 16 // characters when all are digits
	minDistinct = 6  // different characters
	minEffect   = 8  // characters that are left when what everybody tries first is folded
)

// common are words that a guesser tries first.
var common = []string{
	"password", "passwort", "changeme", "qwertyuiop", "qwerty", "asdfghjkl", "zxcvbnm", "letmein", "welcome", "iloveyou",
	"dragon", "monkey", "football", "baseball", "princess", "sunshine", "master", "admin", "root", "login", "secret",
	"docker", "container", "kubernetes", "network", "weave", "weft", "mesh", "default", "test",
}

// weakness says why a password is weak, or "". It is a rule of thumb that
// catches what a guesser tries first, not a measure of entropy.
func weakness(password string) string {
	n := utf8.RuneCountInString(password)
	if n < minPassword {
		return fmt.Sprintf("it has %d characters, fewer than %d", n, minPassword)
	}
	if n < minDigits && strings.Trim(password, "0123456789") == "" {
		return fmt.Sprintf("it has only digits, and fewer than %d", minDigits)
	}
	distinct := map[rune]bool{}
	for _, r := range password {
		distinct[r] = true
	}
	if len(distinct) < minDistinct {
		return fmt.Sprintf("it has only %d different characters", len(distinct))
	}
	s := strings.ToLower(password)
	for _, w := range common {
		s = strings.ReplaceAll(s, w, "\x00") // a word counts as one character
	}
	if effective(period(s)) < minEffect {
		return "it is made of common words, repetitions or sequences"
	}
	return ""
}

// period returns the shortest unit that s is a repetition of.
func period(s string) string {
	for n := 1; n <= len(s)/2; n++ {
		if len(s)%n == 0 && strings.Repeat(s[:n], len(s)/n) == s {
			return s[:n]
		}
	}
	return s
}

// effective counts characters, a run like "aaa", "1234" or "fedc" as two.
func effective(s string) int {
	rs := []rune(s)
	n := 0
	for i := 0; i < len(rs); {
		j := i
		for j+1 < len(rs) && abs(rs[j+1]-rs[j]) <= 1 && rs[j+1]-rs[j] == rs[i+1]-rs[i] {
			j++
		}
		if j-i >= 2 { // rs[i:j+1] is a run of three or more
			n, i = n+2, j+1
		} else {
			n, i = n+1, i+1
		}
	}
	return n
}

func abs(r rune) rune { return max(r, -r) }
