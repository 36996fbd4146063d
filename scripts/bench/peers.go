package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"
)

// startTCP is no tunnel at all. The congestion control belongs to the route of the left host, which sends.
func startTCP(control string) func(*job, network) tunnel {
	return func(j *job, n network) tunnel {
		useControl(j, n, "eth0", n.left.Addr(), control)
		return tunnel{entry: netip.AddrPortFrom(n.right.Addr(), servicePort)}
	}
}

// useControl sets TCP's congestion control for what the left host sends to the /24 of its address. In a
// namespace the sysctl offers only what the system's owner allows to everybody; a route takes all.
func useControl(j *job, n network, device string, addr netip.Addr, control string) {
	prefix, err := addr.Prefix(24)
	j.check("prefix of "+addr.String(), err)
	j.run(n.left, "", "ip", "route", "replace", prefix.String(), "dev", device, "src", addr.String(), "congctl", control)
}

// startSSH is ssh -L with an sshd of its own.
func startSSH(j *job, n network) tunnel {
	useControl(j, n, "eth0", n.left.Addr(), "cubic")
	dir := j.TempDir()
	me, err := user.Current()
	j.check("who am I", err)
	file := func(name string) string { return filepath.Join(dir, name) }
	for _, key := range []string{"host", "user"} {
		j.run(n.left, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file(key))
	}
	config := fmt.Sprintf("Port 2222\nListenAddress %v\nHostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\n"+
		"PasswordAuthentication no\nPermitRootLogin prohibit-password\nUseDNS no\nPidFile none\nMaxStartups 100\n",
		n.right.Addr(), file("host"), file("user.pub"))
	j.check("write sshd's configuration", os.WriteFile(file("sshd"), []byte(config), 0o600))
	_ = os.MkdirAll("/run/sshd", 0o755) // Debian's sshd wants it; without it sshd says so
	server := j.start(n.right, "/usr/sbin/sshd", "-D", "-e", "-f", file("sshd"))
	server.line("listening", func(s string) bool { return strings.HasPrefix(s, "Server listening") })
	ssh := j.start(n.left, "ssh", "-N", "-F", "none", "-p", "2222", "-i", file("user"), "-o", "IdentitiesOnly=yes",
		"-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile="+os.DevNull,
		"-L", fmt.Sprintf("127.0.0.1:8000:127.0.0.1:%d", servicePort), fmt.Sprintf("%s@%v", me.Username, n.right.Addr()))
	return tunnel{entry0, []int{ssh.pid()}, []int{server.pid()}}
}

// entry0 is where tools listen that are told where.
var entry0 = netip.MustParseAddrPort("127.0.0.1:8000")

// startKCPTun is Debian's kcptun.
func startKCPTun(j *job, n network) tunnel {
	options := []string{"--mode", "fast3", "--key", "bench", "--crypt", "aes-128", "--sndwnd", "1024", "--rcvwnd", "1024", "--nocomp", "--quiet"}
	far := fmt.Sprintf("%v:29900", n.right.Addr())
	server := j.start(n.right, "kcptun-server", append([]string{"--listen", far, "--target", fmt.Sprintf("127.0.0.1:%d", servicePort)}, options...)...)
	client := j.start(n.left, "kcptun-client", append([]string{"--localaddr", entry0.String(), "--remoteaddr", far}, options...)...)
	return tunnel{entry0, []int{client.pid()}, []int{server.pid()}}
}

// startWireGuard is a WireGuard tunnel in user space on both sides. TCP runs inside it, end to end.
func startWireGuard(j *job, n network) tunnel {
	dir := j.TempDir()
	type side struct {
		device, addr, public string
		p                    *process
	}
	var sides [2]side
	for i, h := range n.hosts() {
		s := &sides[i]
		// The control sockets of all namespaces lie in one directory.
		s.device, s.addr = fmt.Sprintf("wgb%d%c", os.Getpid()%1e6, 'l'+rune(i)), fmt.Sprintf("10.99.0.%d", i+1)
		s.p = j.start(h, "env", "WG_PROCESS_FOREGROUND=1", "LOG_LEVEL=error", "wireguard-go", "-f", s.device)
		socket := "/var/run/wireguard/" + s.device + ".sock"
		for end := time.Now().Add(5 * time.Second); ; j.pause(10 * time.Millisecond) {
			if _, err := os.Stat(socket); err == nil {
				break
			}
			if time.Now().After(end) {
				j.Fatalf("wireguard-go has made no %s:\n%s", socket, s.p.said())
			}
		}
		j.Cleanup(func() { _ = os.Remove(socket) })
		key := strings.TrimSpace(j.run(h, "", "wg", "genkey"))
		s.public = strings.TrimSpace(j.run(h, key, "wg", "pubkey"))
		j.check("write a key", os.WriteFile(filepath.Join(dir, s.device), []byte(key), 0o600))
	}
	for i, h := range n.hosts() {
		me, peer, far := sides[i], sides[1-i], n.hosts()[1-i].Addr()
		j.run(h, "", "wg", "set", me.device, "listen-port", "51820", "private-key", filepath.Join(dir, me.device),
			"peer", peer.public, "allowed-ips", peer.addr+"/32", "endpoint", fmt.Sprintf("%v:51820", far))
		j.run(h, "", "ip", "address", "add", me.addr+"/24", "dev", me.device)
		j.run(h, "", "ip", "link", "set", me.device, "mtu", "1420", "up")
	}
	useControl(j, n, sides[0].device, netip.MustParseAddr(sides[0].addr), "cubic")
	return tunnel{netip.MustParseAddrPort(fmt.Sprintf("%s:%d", sides[1].addr, servicePort)), []int{sides[0].p.pid()}, []int{sides[1].p.pid()}}
}
