package signal

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

func start(t *testing.T, command string) (Channel, *bytes.Buffer) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the commands of these tests need a unix shell")
	}
	var stderr bytes.Buffer
	x, err := ExecConfig{Command: command, Stderr: &stderr, Now: before}.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x, &stderr
}

func TestExec(t *testing.T) {
	t.Parallel()
	offer, answer := sampleMessage(KindOffer), sampleMessage(KindAnswer)
	got := filepath.Join(t.TempDir(), "got")
	x, stderr := start(t, "read -r line; echo \"$line\" > '"+got+"'; echo aside >&2; echo welcome; echo "+token(t, answer)+"; cat > /dev/null")
	if err := x.Send(t.Context(), offer); err != nil {
		t.Fatal(err)
	}
	m, err := x.Receive(t.Context())
	if err != nil || !reflect.DeepEqual(m, answer) {
		t.Fatalf("got %+v, %v, want %+v", m, err, answer)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(got); err != nil || string(b) != token(t, offer)+"\n" {
		t.Errorf("the command got %q, %v", b, err)
	}
	if stderr.String() != "aside\n" {
		t.Errorf("standard error %q, want %q", stderr, "aside\n")
	}
	if _, err := x.Receive(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive after Close: %v, want net.ErrClosed", err)
	}
	if err := x.Send(t.Context(), offer); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send after Close: %v, want net.ErrClosed", err)
	}
	if x.Trickles() {
		t.Error("trickles")
	}
}

// What the command wrote is read although it has ended.
func TestExecEndsAfterToken(t *testing.T) {
	t.Parallel()
	answer := sampleMessage(KindAnswer)
	x, _ := start(t, "echo "+token(t, answer))
	<-x.(*execChannel).exited
	m, err := x.Receive(t.Context())
	if err != nil || !reflect.DeepEqual(m, answer) {
		t.Fatalf("got %+v, %v, want %+v", m, err, answer)
	}
	if _, err := x.Receive(t.Context()); err == nil || !strings.Contains(err.Error(), "ended before a token came") {
		t.Errorf("got %v, want that the command has ended", err)
	}
}

func TestExecEmpty(t *testing.T) {
	if x, err := NewExec(" "); err == nil {
		x.Close()
		t.Error("an empty command was run")
	}
}

// Something the command left behind holds its output open: Close does not wait for that.
func TestExecLeavesSomethingBehind(t *testing.T) {
	t.Parallel()
	x, _ := start(t, "sleep 20 & exit 0")
	began := time.Now()
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("Close took %v", d)
	}
}

func TestExecStatus(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"exit 3", "echo hello; exit 3", "adit-has-no-such-command; exit 3"} {
		x, _ := start(t, command)
		_, err := x.Receive(t.Context())
		var status *exec.ExitError
		if !errors.As(err, &status) || status.ExitCode() != 3 || !strings.Contains(err.Error(), "3") {
			t.Errorf("%s: %v, want exit status 3", command, err)
		}
		if err := x.Send(t.Context(), sampleMessage(KindOffer)); !errors.As(err, &status) {
			t.Errorf("%s: Send: %v, want exit status 3", command, err)
		}
	}
	x, _ := start(t, "exec >&-; sleep 60")
	if _, err := x.Receive(t.Context()); err == nil || !strings.Contains(err.Error(), "closed its output") {
		t.Errorf("got %v, want that it closed its output", err)
	}
}

func TestExecOwnToken(t *testing.T) {
	t.Parallel()
	x, _ := start(t, "cat")
	if err := x.Send(t.Context(), sampleMessage(KindOffer)); err != nil {
		t.Fatal(err)
	}
	_, err := x.Receive(t.Context())
	if e := tokenProblem(t, err); !strings.Contains(e.Problem, "your own") {
		t.Error(e)
	}
}

func TestExecUnblocks(t *testing.T) {
	t.Parallel()
	x, _ := start(t, "trap '' TERM; while :; do sleep 60; done") // neither the end of input nor SIGTERM ends it
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := x.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the context", err)
	}
	got := make(chan error)
	go func() {
		_, err := x.Receive(t.Context())
		got <- err
	}()
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	if err := <-got; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}
