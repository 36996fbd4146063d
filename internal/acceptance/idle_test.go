//go:build unix

package acceptance

import (
	"os"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// TestSize holds the binary to its size, as it is released: without symbols.
func TestSize(t *testing.T) {
	info, err := os.Stat(adit(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.2f MB", float64(info.Size())/1e6)
	if info.Size() >= 20e6 {
		t.Errorf("the binary has %d bytes, want less than 20 MB", info.Size())
	}
}

// TestIdleMemory holds both sides of an idle session to 30 MiB.
func TestIdleMemory(t *testing.T) {
	testtier.Long(t)
	const limit = 30 << 20
	w := newWorld(t)
	left, right := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}), w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
	exposer, code := w.expose(left, "22")
	connecter, _ := w.forward(right, code)
	// Idle is nothing that one could wait for: some seconds without work.
	if connecter.gone(3 * time.Second) {
		t.Fatal("the connecter ended")
	}
	for _, p := range []*process{exposer, connecter, w.server} {
		m := p.memory()
		t.Logf("%s: %.1f MiB resident", p.label, float64(m)/(1<<20))
		if m >= limit {
			t.Errorf("%s holds %d bytes, want less than %d", p.label, m, limit)
		}
	}
	ends(connecter, exposer)
}

// TestDemo runs the demonstration as a newcomer does, on a host with nothing but loopback.
func TestDemo(t *testing.T) {
	const limit = 15 * time.Second
	path := adit(t)
	h, _ := netlab.New(t).Veth(0)
	p := start(t, h, "demo", []string{path, "demo", "--config", os.DevNull})
	p.exits(0, 2*within(limit))
	took := time.Since(p.out.began)
	t.Logf("%.1f s", took.Seconds())
	if took > within(limit) {
		t.Errorf("the demo took %v, want %v", took, limit)
	}
}

// TestPipe joins two standard inputs and outputs, both ways, with an end of each.
func TestPipe(t *testing.T) {
	w := newWorld(t)
	left, right := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}), w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
	dir := t.TempDir()
	var in, out [2]*os.File
	var sums [2][32]byte
	for i := range in {
		name := dir + "/" + string(rune('a'+i))
		sums[i] = writeRandom(t, name, 3e6+int64(i))
		var err error
		if in[i], err = os.Open(name); err != nil {
			t.Fatal(err)
		}
		defer in[i].Close()
		if out[i], err = os.Create(name + ".out"); err != nil {
			t.Fatal(err)
		}
		defer out[i].Close()
	}
	first := w.runWith(left, []setting{stdin(in[0]), stdout(out[0])}, "pipe", "--signal", w.signal)
	e, _ := first.await("code")
	second := w.runWith(right, []setting{stdin(in[1]), stdout(out[1])}, "pipe", e.code(), "--signal", w.signal)
	first.exits(0, patience)
	second.exits(0, patience)
	for i := range out {
		if got := sumFile(t, out[i].Name()); got != sums[1-i] {
			t.Errorf("side %d got something else than was sent", i)
		}
	}
}
