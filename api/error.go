package api

import (
	"fmt"
	"net/http"
)

// Error is an error with an HTTP status and a hint for the operator. Handlers
// may return it, or any other error with methods Status() int and Hint() string;
// [Client.Do] returns it for what the server refused.
type Error struct {
	Code int    // HTTP status; 0 counts as 500
	Tip  string // what to type next; may be empty
	Err  error
}

// Errorf makes an [Error] without a hint.
func Errorf(code int, format string, args ...any) *Error {
	return &Error{Code: code, Err: fmt.Errorf(format, args...)}
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Hint returns what the operator may do about the error.
func (e *Error) Hint() string { return e.Tip }

// Status returns the HTTP status that goes with the error.
func (e *Error) Status() int {
	if e.Code == 0 {
		return http.StatusInternalServerError
	}
	return e.Code
}
