// Package netlab makes test hosts out of namespaces: each has a network, a
// mount and a UTS namespace, with its own /run, /etc, /var/lib and /sys, and
// hangs by one cable (eth0) on a switch that the lab owns. A cable can be cut,
// made lossy and slow by a seed, and listened to; a host can run a real dockerd.
//
// It owns everything that it starts: Close ends all processes of the lab and
// removes its files. Only processes and open files of the lab's process hold
// the namespaces, so a crashed lab leaves child processes and files behind,
// and nothing else; Sweep, called at the start of the next run, ends those.
//
// It does not isolate hosts from one another beyond that: process IDs, /proc,
// /dev, /tmp, cgroups and the kernel's limits are shared with the machine. It
// knows nothing about weft but its underlay port and its state directory.
//
// # How processes are found again
//
// Inode numbers of namespaces are reused by the kernel, so they identify
// nothing once their owner has died. A lab's processes are known by three
// marks, each holding the lab's random ID: an environment variable, which
// children inherit; a directory in the private /run, seen through
// /proc/PID/root; and the parent cgroup of a host's containers. A lab's owner
// is known by process ID and start time, kept in /run/weft-netlab/ID.json.
//
// # Threads, goroutines and locks
//
// Namespaces belong to threads. Whatever must happen inside a host runs on a
// fresh OS thread that enters the host's namespaces and is thrown away. No
// parent-death signal is used, since it would fire when such a thread ends.
//
// There is a goroutine per process started by Start, one per Capture and three
// per cable that Impair changed; Close ends all of them. Lab.mu guards what the
// lab holds, cabling.mu the state of the switch; neither is held while the
// other is taken. Every exported method may be called by many goroutines.
package netlab
