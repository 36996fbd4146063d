package portmap

import (
	"os"
	"testing"

	"adit/internal/leaktest"
)

var runHelper func() // on systems that have test networks

func TestMain(m *testing.M) {
	if os.Getenv("ADIT_PORTMAP_HELPER") != "" && runHelper != nil {
		runHelper()
	}
	leaktest.Main(m)
}
