package acceptance

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"adit/internal/testtier"
)

// bootPatience is how long anything in a machine may take.
const bootPatience = 45 * time.Second

// A machine is one that a real systemd runs, in a container of systemd-nspawn: this system's /usr, everything
// else empty, no network, and its own processes, mounts and control groups. What it does to itself is gone with it.
type machine struct {
	t      testing.TB
	leader string // the number of its process 1, as seen from here
}

// boot starts a machine that has adit as /opt/adit.
func boot(t *testing.T) *machine {
	t.Helper()
	testtier.Full(t)
	bin := adit(t)
	for _, tool := range []string{"systemd-nspawn", "nsenter", "ip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (systemd-container, util-linux, iproute2)", tool)
		}
	}
	if _, err := os.Stat("/usr/lib/systemd/systemd"); err != nil {
		t.Skip("needs systemd")
	}
	said := newRecord()
	cmd := exec.Command("systemd-nspawn", "--directory=/", "--volatile=yes", "--private-network", "--register=no", "--keep-unit",
		"--machine=adit-"+strconv.Itoa(os.Getpid()), "--console=pipe", "--boot", "systemd.unit=basic.target", "systemd.firstboot=off")
	cmd.Env = append(os.Environ(), "UNIFIED_CGROUP_HIERARCHY=1") // else it takes after this system
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is asked to end below
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it shuts down
		select {
		case <-ended:
		case <-time.After(patience):
			_ = cmd.Process.Kill() // its process 1 dies with it
			<-ended
		}
		if t.Failed() {
			t.Logf("the machine:\n%s", said.show())
		}
	})
	m := &machine{t: t}
	children := fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid)
	m.until("the machine runs", func() bool {
		select {
		case <-ended:
			t.Skipf("systemd does not boot in a container here:\n%s", said.show())
		default:
		}
		b, err := os.ReadFile(children)
		if m.leader = strings.TrimSpace(string(b)); err != nil || m.leader == "" {
			return false
		}
		out, _ := m.try("systemctl", "is-system-running")
		return strings.Contains(out, "running") || strings.Contains(out, "degraded")
	})
	program, err := os.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	install := m.command("sh", "-c", "mkdir -p /opt && cat >/opt/adit && chmod 755 /opt/adit")
	install.Stdin = program
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("install adit: %v\n%s", err, out)
	}
	return m
}

// try runs a command in the machine, as root.
func (m *machine) try(args ...string) (string, error) {
	out, err := m.command(args...).CombinedOutput()
	return string(out), err
}

func (m *machine) command(args ...string) *exec.Cmd {
	in := []string{"-t", m.leader, "-m", "-u", "-i", "-n", "-p", "-C", "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/opt", "HOME=/root"}
	return exec.Command("nsenter", append(in, args...)...)
}

// run runs a command that has to succeed, and returns what it prints.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s\n%s", strings.Join(args, " "), err, out, m.journal())
	}
	return out
}

func (m *machine) journal() string {
	out, _ := m.try("journalctl", "--no-pager", "-o", "short-monotonic", "-u", "adit*", "-u", "laptop")
	var b strings.Builder
	for line := range strings.Lines(out) {
		if strings.Contains(line, "systemd[1]: ") || strings.Contains(line, "msg=") { // not the stacks of SIGABRT
			b.WriteString(line)
		}
	}
	return b.String()
}

// until waits for a condition. systemd tells nobody outside of it when one comes true, so it is looked at again and
// again.
func (m *machine) until(what string, is func() bool) {
	m.t.Helper()
	limit := time.After(bootPatience)
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for !is() {
		select {
		case <-t.C:
		case <-limit:
			m.t.Fatalf("not within %v: %s\n%s", bootPatience, what, m.journal())
		}
	}
}

// property returns what systemd knows of the service.
func (m *machine) property(name string) string {
	m.t.Helper()
	return strings.TrimSpace(m.run("systemctl", "show", "--value", "-p", name, "adit.service"))
}

func (m *machine) says(text string) {
	m.t.Helper()
	m.until(fmt.Sprintf("the status has %q", text), func() bool { return strings.Contains(m.property("StatusText"), text) })
}

// again waits until the service is another process than pid, and ready.
func (m *machine) again(pid, why string) string {
	m.t.Helper()
	m.until("started again after "+why, func() bool {
		return m.property("MainPID") != pid && m.property("ActiveState") == "active"
	})
	return m.property("MainPID")
}

// TestSystemd has a service of the system under a real systemd: it starts without a network, says how it does, follows
// its files, and comes back whatever happens to it.
func TestSystemd(t *testing.T) {
	m := boot(t)

	// Without a network, and without the rendezvous, it is ready and waits.
	const url = "http://192.0.2.1:8080"
	began := time.Now()
	t.Log(m.run("adit", "service", "install", "--", "expose", "22", "--listen", "--signal", url))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the service was ready after %v", took)
	}
	if got := m.property("ActiveState") + " " + m.property("UnitFileState"); got != "active enabled" {
		t.Errorf("the service is %s", got)
	}
	m.says("waiting for a rendezvous")

	// Both come up.
	m.run("ip", "link", "add", "net0", "type", "veth", "peer", "net1")
	m.run("ip", "address", "add", "192.0.2.1/24", "dev", "net0")
	m.run("ip", "link", "set", "net0", "up")
	m.run("ip", "link", "set", "net1", "up")
	m.run("adit", "service", "install", "--name", "rendezvous", "--", "serve", "--http", "192.0.2.1:8080", "--stun", "192.0.2.1:3478")
	m.says("waiting for peers")
	pid := m.property("MainPID")

	// A peer is added while it runs, and connects. Root sees its state.
	key := strings.TrimSpace(m.run("env", "XDG_STATE_HOME=/var/lib/adit/adit", "adit", "key", "-q"))
	own := strings.TrimSpace(m.run("adit", "key", "-q"))
	m.run("env", "XDG_STATE_HOME=/var/lib/adit/adit", "XDG_CONFIG_HOME=/etc", "adit", "peers", "add", "laptop", own)
	m.run("adit", "peers", "add", "home", key, "--signal", url)
	m.run("systemd-run", "--unit=laptop", "--setenv=HOME=/root", "/opt/adit", "connect", "home", "-L", "0:localhost:1")
	m.says("laptop: direct, ")
	status := m.run("adit", "service", "status")
	t.Log(status)
	if !strings.Contains(status, "Status: \"laptop: direct, ") {
		t.Error("adit service status does not show the path")
	}
	if out := m.run("adit", "status"); !strings.Contains(out, "laptop") {
		t.Errorf("root's adit status does not show the session:\n%s", out)
	}

	// Reload is SIGHUP: what is wrong is told, what is right is in force, and the session stays.
	m.run("sh", "-c", `printf '[peers.laptop]\nalow = []\n' >/etc/adit/config.toml`)
	m.run("systemctl", "reload", "adit.service")
	m.until("a wrong file is told of", func() bool { return strings.Contains(m.journal(), "did you mean allow?") })
	m.run("sh", "-c", `printf '[peers.laptop]\nallow = []\n' >/etc/adit/config.toml`)
	m.run("systemctl", "reload", "adit.service")
	m.until("the files are read again", func() bool { return strings.Contains(m.journal(), "msg=reloaded\n") })
	if m.property("MainPID") != pid || !strings.Contains(m.property("StatusText"), "laptop: ") {
		t.Error("the session did not outlive a reload")
	}

	// A process that hangs is ended by the watchdog. One that crashes, or is killed, is started again too.
	m.run("sh", "-c", `mkdir -p /run/systemd/system/adit.service.d && printf '[Service]\nWatchdogSec=2\nRestartSec=0\n' >/run/systemd/system/adit.service.d/soon.conf`)
	m.run("systemctl", "daemon-reload")
	m.run("systemctl", "restart", "adit.service")
	pid = m.again(pid, "a restart")
	m.run("kill", "-STOP", pid)
	pid = m.again(pid, "SIGSTOP")
	if !strings.Contains(m.journal(), "Watchdog timeout") {
		t.Errorf("it was not the watchdog that ended it:\n%s", m.journal())
	}
	m.run("kill", "-ABRT", pid) // as a panic does, and the watchdog to one that still can take it
	pid = m.again(pid, "SIGABRT")
	m.run("kill", "-KILL", pid)
	m.again(pid, "SIGKILL")
	m.says("laptop: direct, ") // who was connected is again

	// The unit is closed.
	out := m.run("systemd-analyze", "--no-pager", "security", "adit.service")
	if f := regexp.MustCompile(`exposure level for adit.service: ([\d.]+)`).FindStringSubmatch(out); f == nil {
		t.Errorf("no exposure level:\n%s", out)
	} else if level, err := strconv.ParseFloat(f[1], 64); err != nil || level > 1.5 {
		t.Errorf("the exposure level is %s, want 1.5 at most:\n%s", f[1], out)
	} else {
		t.Logf("systemd-analyze security: exposure level %s", f[1])
	}

	// A service of the user is another manager's, and says how it does there.
	const runtime = "XDG_RUNTIME_DIR=/run/user/0"
	m.run("systemctl", "stop", "laptop.service")
	m.run("mkdir", "-p", "-m", "700", "/run/user/0")
	m.run("systemd-run", "--unit=manager", "-p", "Delegate=yes", "--setenv="+runtime, "--setenv=HOME=/root", "/usr/lib/systemd/systemd", "--user")
	m.until("the user's manager runs", func() bool {
		_, err := m.try("env", runtime, "systemctl", "--user", "is-active", "default.target")
		return err == nil
	})
	m.run("env", runtime, "adit", "service", "install", "--user", "--name", "home", "--", "connect", "home", "-L", "0:localhost:1")
	m.until("the service of the user shows its path", func() bool {
		out, _ := m.try("env", runtime, "adit", "service", "status", "--user", "--name", "home")
		return strings.Contains(out, "Active: active (running)") && strings.Contains(out, "Status: \"home: direct, ")
	})
	m.run("env", runtime, "adit", "service", "uninstall", "--user", "--name", "home")
	if out, err := m.try("env", runtime, "systemctl", "--user", "cat", "adit-home.service"); err == nil {
		t.Errorf("after uninstall the user has\n%s", out)
	}

	// It goes without a trace.
	m.run("adit", "service", "uninstall")
	if out, err := m.try("systemctl", "is-active", "adit.service"); err == nil {
		t.Errorf("after uninstall it is %s", out)
	}
	if out, err := m.try("systemctl", "cat", "adit.service"); err == nil {
		t.Errorf("after uninstall there is\n%s", out)
	}
}
