package portmap

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// An igd is a router that speaks UPnP, with what faults it is given. The zero value has none.
type igd struct {
	addr netip.Addr

	// SSDP.
	targets   string // a regular expression: the search targets that it answers
	otherPort bool   // answers come from another port
	ssdp      func(location string) string
	others    int // descriptions of other things on the router, told first

	// The description, and what is made of it before it is sent.
	location  func(url string) string
	base      string // URLBase
	control   func(path string) string
	services  []string // types; the last is connected
	status    bool     // GetStatusInfo is known
	document  []func(string) string
	encode    func(string) string // the last of them
	length    int                 // added to Content-Length
	redirects bool
	slow      time.Duration // before each answer

	// SOAP.
	lease   func(seconds int) int // error code of AddPortMapping, for the lease
	port    func(port, internal int) int
	address string
	fault   string // format of a fault, with the code
	status200,
	amnesia bool // GetSpecificPortMappingEntry is not known
	reply    func(string) string
	renew718 bool

	mu       sync.Mutex
	mapped   map[int]string // external port: client:port lease
	requests []string
	web      net.Listener
	search   *net.UDPConn
}

const igdFault = `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode>` +
	`<faultstring>UPnPError</faultstring><detail><UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>%d</errorCode>` +
	`<errorDescription>no & never</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>`

func newIGD() *igd {
	return &igd{
		targets: ".", address: "20.0.0.1", fault: igdFault, status: true, services: []string{"WANIPConnection:1"},
		ssdp: func(l string) string {
			return "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: upnp:rootdevice\r\nEXT:\r\nLOCATION: " + l + "\r\n\r\n"
		},
		location: func(u string) string { return u }, control: func(p string) string { return p },
		lease: func(int) int { return 0 }, port: func(int, int) int { return 0 },
		reply: func(s string) string { return s }, mapped: make(map[int]string),
	}
}

// start has the router answer at a loopback address.
func (r *igd) start(t *testing.T, addr string) {
	t.Helper()
	r.addr = netip.MustParseAddr(addr)
	var err error
	if r.web, err = net.Listen("tcp4", addr+":0"); err != nil {
		t.Skipf("no such address here: %v", err)
	}
	if r.search, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.addr, ssdpPort))); err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: r}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(r.web) }) // until it is closed
	wg.Go(func() { r.answerSearches(t) })
	t.Cleanup(func() { srv.Close(); r.search.Close(); wg.Wait() })
}

func (r *igd) answerSearches(t *testing.T) {
	from := r.search
	if r.otherPort {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.addr, 0)))
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		from = c
	}
	matches := regexp.MustCompile("(?m)^ST: .*(" + r.targets + ").*\r$")
	b := make([]byte, 1500)
	for {
		n, to, err := r.search.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if !matches.Match(b[:n]) {
			continue
		}
		root := "http://" + r.web.Addr().String()
		for i := range r.others {
			_, _ = from.WriteToUDPAddrPort([]byte(r.ssdp(fmt.Sprintf("%s/media%d.xml", root, i))), to)
		}
		_, _ = from.WriteToUDPAddrPort([]byte(r.ssdp(r.location(root+"/desc.xml"))), to)
	}
}

func (r *igd) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	time.Sleep(r.slow)
	switch {
	case strings.HasPrefix(q.URL.Path, "/media"):
		r.send(w, 200, `<?xml version="1.0"?><root><device><deviceType>urn:schemas-upnp-org:device:MediaServer:1</deviceType><serviceList><service>`+
			`<serviceType>urn:schemas-upnp-org:service:ContentDirectory:1</serviceType><controlURL>/cd</controlURL></service></serviceList></device></root>`)
	case q.URL.Path == "/desc.xml" && r.redirects:
		http.Redirect(w, q, "/real.xml", http.StatusFound)
	case q.Method == http.MethodGet:
		doc := r.description()
		for _, f := range r.document {
			doc = f(doc)
		}
		if r.encode != nil {
			doc = r.encode(doc)
		}
		r.send(w, 200, doc)
	default:
		b, _ := io.ReadAll(q.Body) // a request that is cut is none that it knows
		r.soap(w, q.URL.Path, string(b))
	}
}

func (r *igd) send(w http.ResponseWriter, status int, doc string) {
	w.Header().Set("Content-Length", strconv.Itoa(len(doc)+r.length))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, doc) // the client may have gone
}

func (r *igd) description() string {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major></specVersion>`)
	if r.base != "" {
		b.WriteString("<URLBase>" + r.base + "</URLBase>")
	}
	b.WriteString(`<device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><friendlyName>router</friendlyName><serviceList><service>` +
		`<serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType><controlURL>/l3</controlURL></service></serviceList>` +
		`<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><deviceList><device>` +
		`<deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList>`)
	for i, s := range r.services {
		fmt.Fprintf(&b, `<service><serviceType>urn:schemas-upnp-org:service:%s</serviceType><serviceId>urn:upnp-org:serviceId:WAN%d</serviceId>`+
			`<controlURL>%s</controlURL><eventSubURL>/e</eventSubURL></service>`, s, i, r.control(fmt.Sprintf("/ctl/%d", i)))
	}
	b.WriteString(`</serviceList></device></deviceList></device></deviceList></device></root>`)
	return b.String()
}

func field(doc, name string) string {
	m := regexp.MustCompile("<" + name + ">([^<]*)<").FindStringSubmatch(doc)
	if m == nil {
		return ""
	}
	return m[1]
}

func (r *igd) soap(w http.ResponseWriter, path, doc string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	action := regexp.MustCompile(`<u:(\w+)`).FindStringSubmatch(doc)
	service := strings.TrimPrefix(path, "/ctl/")
	if n, err := strconv.Atoi(service); action == nil || err != nil || n >= len(r.services) {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	connected := service == strconv.Itoa(len(r.services)-1)
	external, _ := strconv.Atoi(field(doc, "NewExternalPort"))
	internal, _ := strconv.Atoi(field(doc, "NewInternalPort"))
	lease, _ := strconv.Atoi(field(doc, "NewLeaseDuration"))
	r.requests = append(r.requests, fmt.Sprintf("%s %d %d", action[1], external, lease))
	code, body := 0, ""
	_, known := r.mapped[external]
	switch action[1] {
	case "GetStatusInfo":
		if !r.status {
			code = 401
		}
		body = "<NewConnectionStatus>" + map[bool]string{true: "Connected", false: "Disconnected"}[connected] + "</NewConnectionStatus>"
	case "GetExternalIPAddress":
		if r.address == "fault" {
			code = 501
		}
		body = "<NewExternalIPAddress>" + r.address + "</NewExternalIPAddress>"
	case "AddPortMapping":
		switch {
		case !connected && r.status: // it would take the mapping, and nothing would come
			body = ""
		case !connected:
			code = 501
		case known && r.renew718:
			code = 718
		default:
			if code = r.lease(lease); code == 0 {
				code = r.port(external, internal)
			}
			if code == 0 {
				r.mapped[external] = fmt.Sprintf("%s:%d %d", field(doc, "NewInternalClient"), internal, lease)
			}
		}
	case "GetSpecificPortMappingEntry":
		switch {
		case r.amnesia:
			code = 401
		case !known:
			code = 714
		default:
			host, port, _ := strings.Cut(strings.Fields(r.mapped[external])[0], ":")
			body = "<NewInternalPort>" + port + "</NewInternalPort><NewInternalClient>" + host + "</NewInternalClient>"
		}
	case "DeletePortMapping":
		if !known {
			code = 714
		}
		delete(r.mapped, external)
	default:
		code = 401
	}
	if code != 0 {
		status := http.StatusInternalServerError
		if r.status200 {
			status = 200
		}
		out := r.fault
		if strings.Contains(out, "%d") {
			out = fmt.Sprintf(out, code)
		}
		r.send(w, status, r.reply(out))
		return
	}
	r.send(w, 200, r.reply(`<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><u:`+action[1]+
		`Response xmlns:u="x">`+body+`</u:`+action[1]+`Response></s:Body></s:Envelope>`))
}
