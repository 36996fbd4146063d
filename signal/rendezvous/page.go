package rendezvous

import (
	"io"
	"net/http"
	"strconv"
)

// page is for a person who comes with a browser. It loads nothing and asks nothing.
const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>A rendezvous of adit</title>
<style>body{font:1rem/1.5 sans-serif;max-width:36em;margin:4em auto;padding:0 1em}</style>
<h1>A rendezvous of adit</h1>
<p>Two machines behind NATs find each other here, by messages that this server cannot read, and then talk directly.
There is nothing to see for a browser.</p>
<p>With adit on both machines, one offers a port, say 22, and the other joins with the code that this prints:</p>
<pre>adit expose --signal THIS-ADDRESS 22
adit connect --signal THIS-ADDRESS CODE</pre>
</html>
`

// welcome answers a browser that came by mistake.
func welcome(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(page)))
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, page) // a browser that left does not mind
	}
}
