package mesh

// Stats is how much a Mesh holds at one moment. All of it is bounded.
type Stats struct {
	Authors   int // hosts whose logs are known, this one included; at most 4,096
	Strangers int // of them: never met, and the address space does not rest on them; at most half, but for what a restart has found
	Entries   int // of all logs, those that wait for others before them included
	LogBytes  int // of these entries; at most 512 MiB
	PastBytes int // of what others tell of this host's former epochs; at most 99 MiB
	DiskQueue int // values that wait to be written; while the disk refuses, at most what is held and what is on it
	Inbox     int // datagrams that came and are not merged yet; at most 1,024
	Outbox    int // own entries that wait to be sent; at most 1,024
	Relay     int // others' entries that wait to be handed on; at most 1,024
	Guests    int // sessions served on the underlay; at most Options.ConnLimit
	Locals    int // sessions served through the tunnel; likewise
	Exchanges int // exchanges of logs under way: at most 20 that are served, 32 joins and some more of this host's own
	Turns     int // exchanges that wait for their turn; they are sessions, too
}

// Stats counts. It costs time in proportion to the number of hosts.
func (m *Mesh) Stats() Stats {
	own, relay := m.outbox.waiting()
	s := Stats{
		DiskQueue: m.waitsForDisk(), Inbox: len(m.inbox), Outbox: own, Relay: relay,
		Guests: len(m.guests), Locals: len(m.locals),
	}
	s.Exchanges, s.Turns = m.talks.count()
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Strangers = m.logs.strangers.number
	s.PastBytes = m.past.bytes()
	s.Authors, s.Entries, s.LogBytes = len(m.logs.authors), m.logs.entries(), m.logs.held
	return s
}
