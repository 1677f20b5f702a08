package mesh

// keptBy tells that a later epoch has every grant of this one. A grant is what
// another host's ownership rests on, so that its author cannot take it back, not
// by forgetting it either.
func (ep *epoch) keptBy(later *epoch) bool {
	var has map[string]bool
	for _, e := range ep.entries {
		if e.Kind != KindGrant {
			continue
		}
		if has == nil {
			has = make(map[string]bool)
			for _, l := range later.entries {
				if l.Kind == KindGrant {
					has[string(l.Payload)] = true
				}
			}
		}
		if !has[string(e.Payload)] {
			return false
		}
	}
	return true
}

// forgotten tells that the author's epoch of that number is here and does not take
// effect because it lacks grants which the effective one has.
func (a *author) forgotten(number uint64) bool {
	for _, ep := range a.next {
		if ep.number == number {
			return ep.lacking
		}
	}
	return false
}

// lackingEpochs are those that do not take effect because they lack grants which the
// effective one has.
func (a *author) lackingEpochs() (out []*epoch) {
	for _, ep := range a.next {
		if ep.lacking {
			out = append(out, ep)
		}
	}
	return out
}

// settleOlder is called when an exchange is over: its other grants may come last.
func (m *Mesh) settleOlder() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.logs.settleOlder()
}
