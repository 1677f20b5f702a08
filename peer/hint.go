package peer

// hintError is an error that an operator can do something about. The command
// line prints what Hint gives behind the error.
type hintError struct {
	err  error
	hint string
}

func withHint(err error, hint string) error { return &hintError{err, hint} }

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// Hint says what to do.
func (e *hintError) Hint() string { return e.hint }
