package tunnel

import (
	"context"
	"errors"
	"io"
	"testing"
)

func TestBench(t *testing.T) {
	a, b := newSessions(t)
	sink, seen := events()
	asked := make(chan string, 2)
	serving(t, b, Offer{Bench: func(_ context.Context, st Stream, request []byte) {
		asked <- string(request)
		if string(request) == "no" {
			_ = st.Refuse(CodeUsage, "not so")
			return
		}
		_ = st.Accept()
		_, _ = io.Copy(st, st)
		_ = st.Close()
	}}, Options{OnStream: sink})
	st, err := OpenBench(t.Context(), a, []byte("echo"))
	if err != nil {
		t.Fatal(err)
	}
	if err := st.WaitAccepted(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(st, "hello")
	_ = st.CloseWrite()
	if got, err := io.ReadAll(st); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v back", got, err)
	}
	_ = st.Close()
	if got := <-asked; got != "echo" {
		t.Errorf("request %q, want echo", got)
	}
	for _, want := range []string{StateOpen, StateClosed} {
		if e := <-seen; e.State != want || e.Target != benchTarget {
			t.Errorf("event %+v, want %s", e, want)
		}
	}

	st, err = OpenBench(t.Context(), a, []byte("no"))
	if err != nil {
		t.Fatal(err)
	}
	var refused *RefusedError
	if err := st.WaitAccepted(t.Context()); !errors.As(err, &refused) || refused.Code != CodeUsage {
		t.Errorf("WaitAccepted: %v, want a refusal", err)
	}
	if e := <-seen; e.State != StateRefused || e.Reason != "not so" {
		t.Errorf("event %+v, want a refusal", e)
	}
}

func TestBenchNotAllowed(t *testing.T) {
	a, b := newSessions(t)
	sink, seen := events()
	serving(t, b, offeringAll(), Options{OnStream: sink})
	st, err := OpenBench(t.Context(), a, nil)
	if err != nil {
		t.Fatal(err)
	}
	var refused *RefusedError
	if err := st.WaitAccepted(t.Context()); !errors.As(err, &refused) || refused.Code != CodeRefused {
		t.Errorf("WaitAccepted: %v, want a refusal", err)
	}
	if e := <-seen; e.State != StateRefused || e.Target != benchTarget {
		t.Errorf("event %+v, want a refusal", e)
	}
}
