package portmap

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
)

// TestRemoveOwn: with UPnP no mapping is removed but those that were made, or may have been.
func TestRemoveOwn(t *testing.T) {
	const conflict, failed, lost, ok = 718, 501, -2, 0
	for _, c := range []struct {
		name  string
		calls [][]int // of AddPortMapping: the answers during each call of add, the last one again and again
		want  func(asked []string) []string
	}{
		{"mapped", [][]int{{ok}}, func(p []string) []string { return p }},
		{"conflicts", [][]int{{conflict}}, func([]string) []string { return nil }},
		{"failed", [][]int{{failed}}, func([]string) []string { return nil }},
		{"conflict, then mapped", [][]int{{conflict, ok}}, func(p []string) []string { return p[1:] }},
		{"answer lost", [][]int{{lost}}, func(p []string) []string { return p }},
		{"conflict, then lost", [][]int{{conflict, lost}}, func(p []string) []string { return p[1:] }},
		{"not renewed", [][]int{{ok}, {failed}}, func(p []string) []string { return p[:1] }},
		{"taken by another", [][]int{{ok}, {conflict}}, func([]string) []string { return nil }},
		{"taken by another, mapped elsewhere", [][]int{{ok}, {conflict, ok}}, func(p []string) []string { return p[2:] }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked, removed []string
			var answers []int
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var env struct {
					Added  string `xml:"Body>AddPortMapping>NewExternalPort"`
					Remove string `xml:"Body>DeletePortMapping>NewExternalPort"`
				}
				if err := xml.NewDecoder(r.Body).Decode(&env); err != nil {
					t.Error(err)
				}
				if env.Remove != "" {
					removed = append(removed, env.Remove)
				}
				if env.Added == "" {
					fmt.Fprint(w, `<Envelope><Body><GetExternalIPAddressResponse><NewExternalIPAddress>20.0.0.1</NewExternalIPAddress>`+
						`</GetExternalIPAddressResponse></Body></Envelope>`)
					return
				}
				asked = append(asked, env.Added)
				code := answers[0]
				if len(answers) > 1 {
					answers = answers[1:]
				}
				switch code {
				case ok:
					fmt.Fprint(w, `<Envelope><Body/></Envelope>`)
				case lost:
					panic(http.ErrAbortHandler)
				default:
					w.WriteHeader(http.StatusInternalServerError)
					fmt.Fprintf(w, `<Envelope><Body><Fault><detail><UPnPError><errorCode>%d</errorCode></UPnPError></detail></Fault></Body></Envelope>`, code)
				}
			}))
			defer srv.Close()
			control, _ := url.Parse(srv.URL)
			u := &upnp{local: here, client: gatewayClient(here), services: []service{{"x", control}}, lease: leases[0], own: make(map[int]service)}
			external := 4000
			for _, answers = range c.calls {
				if addr, _, err := u.addAny(t.Context(), 4000, external); err == nil {
					external = int(addr.Port())
				}
			}
			for range 2 { // the second time there is nothing left
				if err := u.remove(t.Context(), 4000, external); err != nil {
					t.Error(err)
				}
			}
			if want := c.want(asked); !slices.Equal(removed, want) {
				t.Errorf("asked for %q, removed %q, want %q", asked, removed, want)
			}
		})
	}
}
