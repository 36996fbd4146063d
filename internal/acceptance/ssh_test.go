//go:build unix

package acceptance

import (
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
)

const sshPort = 22 // on the loopback of a namespace it is always free

// An sshServer is Debian's sshd with throw-away keys, on all addresses of one host.
type sshServer struct {
	t    testing.TB
	dir  string // keys and known_hosts
	user string
}

func newSSHServer(t testing.TB, h *netlab.Host) *sshServer {
	t.Helper()
	tool(t, "/usr/sbin/sshd", "ssh", "scp", "ssh-keygen")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := &sshServer{t: t, dir: t.TempDir(), user: me.Username}
	for _, key := range []string{"host", "user"} {
		command(t, h, []string{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", s.file(key)})
	}
	public, err := os.ReadFile(s.file("host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("known_hosts", "exposed "+string(public))
	// PAM and its session would want more of the system than a container has.
	s.write("sshd_config", fmt.Sprintf(`ListenAddress 0.0.0.0
Port %d
HostKey %s
AuthorizedKeysFile %s
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
PidFile none
Subsystem sftp internal-sftp
`, sshPort, s.file("host"), s.file("user.pub")))
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // what it changes its root to
		t.Fatal(err)
	}
	p := start(t, h, "sshd", []string{"/usr/sbin/sshd", "-D", "-e", "-f", s.file("sshd_config")})
	p.says("Server listening")
	return s
}

func (s *sshServer) file(name string) string { return filepath.Join(s.dir, name) }

func (s *sshServer) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.file(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// options are those that ssh and scp share. The host's name is an alias: its key is what counts.
func (s *sshServer) options() []string {
	return []string{"-F", "none", "-i", s.file("user"), "-o", "UserKnownHostsFile=" + s.file("known_hosts"),
		"-o", "HostKeyAlias=exposed", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
		"-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=20"}
}

// over checks that ssh works through a forwarded port.
func (s *sshServer) over(h *netlab.Host, port netip.AddrPort) {
	s.t.Helper()
	args := append([]string{"ssh"}, s.options()...)
	s.check(h, append(args, "-p", fmt.Sprint(port.Port()), s.user+"@"+port.Addr().String()))
}

// by checks that ssh works with a proxy command.
func (s *sshServer) by(h *netlab.Host, proxy ...string) {
	s.t.Helper()
	args := append([]string{"ssh", "-o", "ProxyCommand=" + strings.Join(proxy, " ")}, s.options()...)
	s.check(h, append(args, s.user+"@exposed"))
}

func (s *sshServer) check(h *netlab.Host, args []string) {
	s.t.Helper()
	out := command(s.t, h, append(args, "echo out of $((6*7)); echo $SSH_CONNECTION"))
	if !strings.HasPrefix(out, "out of 42\n127.0.0.1 ") {
		s.t.Errorf("ssh printed %q", out)
	}
}

// copy sends a file of that many bytes through a forwarded port with scp and compares it.
func (s *sshServer) copy(h *netlab.Host, port netip.AddrPort, size int64) {
	s.t.Helper()
	from, to := s.file("sent"), s.file("received")
	want := writeRandom(s.t, from, size)
	began := time.Now()
	args := append([]string{"scp", "-q"}, s.options()...)
	command(s.t, h, append(args, "-P", fmt.Sprint(port.Port()), from, s.user+"@"+port.Addr().String()+":"+to))
	took := time.Since(began)
	if got := sumFile(s.t, to); got != want {
		s.t.Errorf("SHA-256 %x, want %x", got, want)
	}
	s.t.Logf("scp: %d MB in %.2f s: %.0f Mbit/s, SHA-256 equal", size/1e6, took.Seconds(), float64(size)*8/1e6/took.Seconds())
}
