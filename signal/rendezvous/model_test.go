package rendezvous

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A model is a store as simple as can be: a list of rooms, looked through from one end to the other.
type model struct {
	limits Limits
	rooms  []*modelRoom
}

type modelRoom struct {
	Room
	tokens   [2]string
	messages [2][][]byte
	left     [2]bool
	spent    bool // both have left: its nameplate is all that is left of it
}

func (m *model) expire(now time.Time) {
	m.rooms = slices.DeleteFunc(m.rooms, func(r *modelRoom) bool { return !r.Expires.After(now) })
}

func (m *model) create(r Room) error {
	for _, x := range m.rooms {
		if r.Nameplate != "" && x.Nameplate == r.Nameplate {
			return ErrNameplateTaken
		}
	}
	r.Expires = wholeSecond(r.Expires)
	n := &modelRoom{Room: r, tokens: [2]string{r.Token, r.Joiner}}
	if r.First != nil {
		n.messages[0] = [][]byte{r.First}
	}
	m.rooms = append(m.rooms, n)
	return nil
}

func (m *model) join(nameplate, token string) (Ticket, error) {
	for _, r := range m.rooms {
		if nameplate == "" || r.Nameplate != nameplate {
			continue
		}
		if r.spent || r.tokens[1] != "" && (r.tokens[1] != token || r.left[1]) {
			return Ticket{}, ErrRoomTaken
		}
		r.tokens[1] = token
		t := Ticket{ID: r.ID, Token: token, Expires: r.Expires}
		if len(r.messages[0]) > 0 {
			t.First = r.messages[0][0]
		}
		return t, nil
	}
	return Ticket{}, ErrNoRoom
}

func (m *model) find(id, token string) (*modelRoom, int, error) {
	for _, r := range m.rooms {
		if r.ID != id || r.spent {
			continue
		}
		for side := range 2 {
			if r.tokens[side] == token && token != "" && !r.left[side] {
				return r, side, nil
			}
		}
		return nil, 0, ErrToken
	}
	return nil, 0, ErrNoRoom
}

func (m *model) put(id, token string, seq int, b []byte) error {
	r, side, err := m.find(id, token)
	switch {
	case err != nil:
		return err
	case seq < len(r.messages[side]):
		if !bytes.Equal(r.messages[side][seq], b) {
			return ErrConflict
		}
		return nil
	case r.left[1-side]:
		return ErrPeerGone
	case seq >= m.limits.Messages:
		return ErrTooMany
	case seq > len(r.messages[side]):
		return ErrConflict
	}
	r.messages[side] = append(r.messages[side], b)
	return nil
}

func (m *model) get(id, token string, seq int) ([]byte, error) {
	r, side, err := m.find(id, token)
	switch {
	case err != nil:
		return nil, err
	case seq < len(r.messages[1-side]):
		return r.messages[1-side][seq], nil
	case r.left[1-side]:
		return nil, ErrPeerGone
	}
	return nil, nil
}

func (m *model) leave(id, token string) error {
	r, side, err := m.find(id, token)
	if err != nil {
		return err
	}
	r.left[side] = true
	switch {
	case r.tokens[1] == "", r.left[0] && r.left[1] && r.Nameplate == "":
		m.rooms = slices.DeleteFunc(m.rooms, func(x *modelRoom) bool { return x == r })
	case r.left[0] && r.left[1]:
		r.spent = true
	}
	return nil
}

func (m *model) nameplates() int {
	n := 0
	for _, r := range m.rooms {
		if r.Nameplate != "" {
			n++
		}
	}
	return n
}

// The store does what the model does, whatever is asked of it in whatever order: 10,000 random histories of a few
// rooms, in which nameplates, ids and tokens are mixed up. Whoever waits is woken whenever there is something new, no
// nameplate is given twice, and no code is used twice.
func TestStoreModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10_000) {
		rng := rand.New(rand.NewPCG(seed, 7))
		k := newClock()
		limits := Limits{Messages: 3}.withDefaults()
		if err := history(t.Context(), rng, k, NewMemory(limits, k.Now), &model{limits: limits}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func history(ctx context.Context, rng *rand.Rand, k *clock, s Store, m *model) error {
	plates := []string{"1000", "1001", "1002", ""}
	ids := []string{boxID(0), boxID(1), boxID(2), boxID(3), boxID(4)}
	tokens := []string{boxID(10), boxID(11), boxID(12), ""}
	pick := func(all []string) string { return all[rng.IntN(len(all))] }
	type waiter struct {
		id, token string
		seq       int
		changed   <-chan struct{}
	}
	var waiters []waiter
	same := func(what string, got, want error) error {
		if !errors.Is(got, want) || (got == nil) != (want == nil) {
			return fmt.Errorf("%s: got %v, want %v", what, got, want)
		}
		return nil
	}
	for range 40 {
		m.expire(k.Now())
		var err error
		switch op := rng.IntN(16); op {
		case 0, 1, 2:
			r := Room{
				Nameplate: pick(plates), ID: pick(ids), Token: pick(tokens[:3]), Expires: k.Now().Add(time.Duration(1+rng.IntN(600)) * time.Second),
				From: netip.AddrFrom4([4]byte{192, 0, 2, byte(rng.IntN(3))}),
			}
			if slices.ContainsFunc(m.rooms, func(x *modelRoom) bool { return x.ID == r.ID }) {
				continue // an id is 128 random bits
			}
			if r.Nameplate == "" {
				r.Joiner = boxID(13)
			}
			if rng.IntN(2) == 0 {
				r.First = []byte("first")
			}
			err = same("create", s.Create(ctx, r), m.create(r))
		case 3, 4, 5:
			plate, token := pick(plates[:3]), pick(tokens[:3])
			got, e1 := s.Join(ctx, plate, token)
			want, e2 := m.join(plate, token)
			if err = same("join", e1, e2); err == nil && (got.ID != want.ID || got.Token != want.Token || !got.Expires.Equal(want.Expires) || !bytes.Equal(got.First, want.First)) {
				err = fmt.Errorf("join: got %+v, want %+v", got, want)
			}
		case 6, 7, 8:
			id, token, seq, b := pick(ids), pick(tokens), rng.IntN(5), []byte{byte(rng.IntN(2))}
			err = same("put", s.Put(ctx, id, token, seq, b), m.put(id, token, seq, b))
		case 9, 10, 11:
			id, token, seq := pick(ids), pick(tokens), rng.IntN(4)
			got, changed, e1 := s.Get(ctx, id, token, seq)
			want, e2 := m.get(id, token, seq)
			if err = same("get", e1, e2); err == nil && !bytes.Equal(got, want) {
				err = fmt.Errorf("get: got %q, want %q", got, want)
			}
			if changed != nil {
				waiters = append(waiters, waiter{id, token, seq, changed})
			}
		case 12:
			id, token := pick(ids), pick(tokens)
			err = same("leave", s.Leave(ctx, id, token), m.leave(id, token))
		case 13:
			id, token := pick(ids), pick(tokens)
			got, e1 := s.Place(ctx, id, token)
			r, side, e2 := m.find(id, token)
			if e2 == nil && r.left[1-side] {
				e2 = ErrPeerGone
			}
			if err = same("place", e1, e2); err == nil && e2 == nil && got != (Place{Side: side, Both: r.tokens[1] != "", Expires: r.Expires}) {
				err = fmt.Errorf("place: got %+v", got)
			}
		case 14:
			k.add(time.Duration(rng.IntN(200)) * time.Second)
			m.expire(k.Now())
		case 15:
			k.add(time.Duration(rng.IntN(3000)) * time.Millisecond)
			m.expire(k.Now())
		}
		if err != nil {
			return err
		}
		got, err := s.Rooms(ctx)
		if err != nil {
			return err
		}
		if want := m.nameplates(); got != want {
			return fmt.Errorf("%d nameplates in use, want %d", got, want)
		}
		for _, w := range waiters {
			want, e := m.get(w.id, w.token, w.seq)
			if want == nil && e == nil {
				continue
			}
			select {
			case <-w.changed:
			default:
				return fmt.Errorf("a waiter for message %d is not woken: there is %q, %v", w.seq, want, e)
			}
		}
	}
	return nil
}

// BenchmarkCreate makes a short-lived room beside many that live longer, as each meeting by key does.
func BenchmarkCreate(b *testing.B) {
	for _, rooms := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprint(rooms), func(b *testing.B) {
			now := time.Now()
			m := NewMemory(Limits{Rooms: 2 * rooms, Bytes: 4 << 30}, func() time.Time { return now })
			add := func(i int, life time.Duration) {
				r := Room{Nameplate: fmt.Sprint(1_000_000 + i), ID: fmt.Sprintf("%032x", i), Token: "t", Expires: now.Add(life), From: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}
				if err := m.Create(b.Context(), r); err != nil {
					b.Fatal(err)
				}
			}
			for i := range rooms {
				add(i, 10*time.Minute)
			}
			i := rooms
			for b.Loop() {
				add(i, 2*time.Minute)
				if i++; i >= 2*rooms-1 {
					b.StopTimer()
					now = now.Add(3 * time.Minute)
					_, _ = m.Rooms(b.Context())
					i = rooms
					b.StartTimer()
				}
			}
		})
	}
}
