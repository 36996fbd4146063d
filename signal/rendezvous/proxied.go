package rendezvous

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"adit/signal"
)

// noticed are what a reverse proxy in front was found not to pass on, each said once.
type noticed struct{ host, forwarded, upgrade sync.Once }

// hostFor returns the host that a client asked for. A reverse proxy that does not pass Host on puts its own name for
// this server there, which leads the client nowhere; then what the client says itself counts. It is good for the
// servers that the client is told of, and for nothing that protects anybody.
func (s *Server) hostFor(r *http.Request) string {
	meant := r.Header.Get(signal.HostHeader)
	if signal.Reachable(hostOf(r.Host)) || !isHost(hostOf(meant)) || !signal.Reachable(hostOf(meant)) {
		return r.Host
	}
	s.noticed.host.Do(func() {
		s.cfg.Logger.Warn("a reverse proxy does not pass the Host header on; peers that meet by key need it", "asked", meant, "host", r.Host)
	})
	return meant
}

// noticeProxy says once what the proxy in front of a request should do, or what this server should know of it.
func (s *Server) noticeProxy(r *http.Request, to action) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err == nil && r.Header.Get("X-Forwarded-For") != "" && from.Addr().Unmap().IsLoopback() && !s.trusted(from.Addr().Unmap()) {
		s.noticed.forwarded.Do(func() {
			s.cfg.Logger.Warn("a reverse proxy on this machine is not trusted, so all of its clients share one address's limits: give --trusted-proxy " +
				from.Addr().Unmap().String())
		})
	}
	if to == actCarry && s.cfg.Carry != nil && !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		s.noticed.upgrade.Do(func() {
			s.cfg.Logger.Warn("a reverse proxy does not pass the Upgrade and Connection headers on: packets cannot be carried")
		})
	}
}
