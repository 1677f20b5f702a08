package mesh

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// What is on the disk is what is held, and a restart finds it: of a log of several epochs, two of which end with a departure, that
// comes entry by entry and epoch by epoch in any order, is buried, forgotten and dropped, while the disk refuses now and then.
func TestDiskHasWhatIsHeld(t *testing.T) {
	for seed := range uint64(number(t, "SEEDS", simSeeds)) {
		diskStory(t, seed)
	}
}

func diskStory(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	m := quietMesh(t, NewSecret())
	s := newScribe(t, m.o.Secret)
	id := s.id.ID()
	eps := [][]proven{
		s.farewell(t, 10, "a", "b"), s.past(t, 20, []string{"a"}, nil), s.past(t, 30, []string{"a", "b"}, []string{"c"}),
		s.farewell(t, 40, "a", "b"), s.past(t, 50, []string{"a", "b", "c"}, nil),
	}
	departures := []Entry{eps[0][3].Entry, eps[3][3].Entry}
	var story []string
	for range 40 {
		story = append(story, diskStep(m, &s, rnd, eps, departures))
		checkHeld(t, m.logs, 0)
		if rnd.IntN(3) == 0 {
			continue // the disk has not been written yet
		}
		d := m.o.Store.(*disk)
		if rnd.IntN(4) == 0 {
			d.refuse(errors.New("no space left on device"))
			m.write()
			d.refuse(nil)
			continue
		}
		m.write()
		a := m.logs.authors[id]
		logs, err := d.Load(bucketLog)
		if err != nil {
			t.Fatal(err)
		}
		if why := differs(logs, id[:], keysOf(a)); why != "" {
			t.Fatalf("seed %d, after %q: the disk%s", seed, story, why)
		}
		again, err := New(m.o)
		if err != nil {
			t.Fatal(err)
		}
		checkHeld(t, again.logs, 0)
		was, is := showAuthor(a), showAuthor(again.logs.authors[id])
		if nothing := is == "" && was == " left false"; was != is && !nothing && (a == nil || a.older == nil) {
			t.Fatalf("seed %d, after %q: it had%s, and after a restart it has%s", seed, story, was, is)
		}
		if rnd.IntN(4) == 0 {
			m = again
			story = append(story, "restart")
		}
	}
}

// diskStep does something with the log of s, and says what.
func diskStep(m *Mesh, s *scribe, rnd *rand.Rand, eps [][]proven, departures []Entry) (what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := s.id.ID()
	ch, a := &change{}, m.logs.authors[s.id.ID()]
	defer func() { m.storeLocked(ch) }()
	ep := eps[rnd.IntN(len(eps))]
	switch op := rnd.IntN(12); {
	case op < 5:
		n, asked := rnd.IntN(len(ep)), rnd.IntN(3) > 0
		_ = m.logs.merge(ep[n], asked, ch)
		return fmt.Sprintf("entry %d/%d, asked for %v", ep[n].Epoch, ep[n].Seq, asked)
	case op < 7:
		_ = deliver(m.logs, ch, ep)
		return fmt.Sprintf("epoch %d", ep[0].Epoch)
	case op == 7:
		e := departures[rnd.IntN(len(departures))]
		if a == nil {
			_ = m.logs.learn(s.id.Public())
		}
		return fmt.Sprintf("departure %d, taken %v", e.Epoch, m.logs.takeDeparture(e, ch))
	case a == nil:
	case op == 8 && a.gone == nil && a.departure() != nil:
		m.logs.bury(a, *a.departure(), ch)
		return "bury"
	case op == 8 && a.gone == nil && a.lone != nil:
		m.logs.bury(a, *a.lone, ch)
		return "bury by what came alone"
	case op == 9:
		m.logs.dropIdle(a, ch)
		m.logs.stand(id)
		return "drop what is idle"
	case op == 10 && rnd.IntN(3) == 0 && a.strange:
		m.logs.lose(id, ch)
		return "lose"
	case op == 10 && rnd.IntN(3) == 0:
		m.logs.forget(id, ch)
		return "forget"
	case op == 11:
		m.logs.meet(id)
		return "meet"
	}
	return "nothing"
}

// keysOf are those on the disk of what is held of an author.
func keysOf(a *author) map[string]bool {
	keys := map[string]bool{}
	if a == nil {
		return keys
	}
	for _, ep := range append([]*epoch{a.current}, a.next...) {
		if ep != nil {
			for _, e := range ep.entries {
				keys[logKey(e)] = true
			}
		}
	}
	if a.gone != nil {
		keys[logKey(*a.gone)] = true
	}
	if a.lone != nil {
		keys[loneKey(a.lone.Author)] = true
	}
	return keys
}

func differs(have map[string][]byte, author []byte, want map[string]bool) (why string) {
	for k := range have {
		if strings.HasPrefix(k, string(author)) && !want[k] {
			why += fmt.Sprintf(" has %x,", k[len(author):])
		}
	}
	for k := range want {
		if have[k] == nil {
			why += fmt.Sprintf(" lacks %x,", k[len(author):])
		}
	}
	return why
}

func showAuthor(a *author) (s string) {
	if a == nil {
		return ""
	}
	if a.current != nil {
		s += fmt.Sprintf(" epoch %d with %d entries,", a.current.number, len(a.current.entries))
	}
	if a.gone != nil {
		s += fmt.Sprintf(" grave of %d,", a.gone.Epoch)
	}
	if a.lone != nil {
		s += fmt.Sprintf(" departure of %d,", a.lone.Epoch)
	}
	for _, ep := range a.next {
		if len(ep.entries) > 0 {
			s += fmt.Sprintf(" waiting %d with %d entries,", ep.number, len(ep.entries))
		}
	}
	return s + fmt.Sprint(" left ", a.leaves() != nil)
}
