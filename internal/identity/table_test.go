package identity

import (
	"reflect"
	"testing"
)

// A peer's table says all that is known of it, and nothing else.
func TestTable(t *testing.T) {
	t.Parallel()
	no, none := false, 0
	key := PublicKey{1, 2, 3}
	for _, want := range []Peer{
		{Name: "bare"},
		{Name: "key", Key: key},
		{Name: "all", Key: key, Signal: []string{"https://meet.example/?a=1&b=<2>"}, Allow: []string{}, Local: &no,
			Remote: []string{"127.0.0.1:1-9"}, Dynamic: []string{"a", "b"}, Streams: &none},
		{Name: "odd", Allow: []string{"unix:/tmp/a \"b\" \\ \x01\x7f\n€"}},
	} {
		got, err := parse(want.Table())
		if err != nil {
			t.Errorf("%s: %v", want.Name, err)
		} else if list := got.All(); len(list) != 1 || !reflect.DeepEqual(list[0], want) {
			t.Errorf("got %+v, want %+v, from\n%s", list, want, want.Table())
		}
	}
}
