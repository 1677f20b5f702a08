// Package house holds the rules of the repository that a test can keep: which
// package may import which, which package is the only door to a dependency, and
// that every package says what it is. It has no code of its own.
package house
