package router

import "context"

// watchDisk ends the router when its state file was given up: some of what it holds
// for undone may be in the file. The next start goes by the file, as after a crash.
func (r *Router) watchDisk(ctx context.Context) error {
	err := r.db.Watch(ctx)
	if err == nil {
		return nil
	}
	return &Error{Msg: "the router ends, and leaves its tunnels as they are: its disk fails", Err: err,
		Tip: "the kernel's log (`dmesg`) says what ails the disk; once it is mended: weft launch --resume"}
}
