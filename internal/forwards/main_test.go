package forwards

import (
	"testing"

	"adit/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m, "kcp-go/v5.NewTimedSched") } // the scheduler of kcp-go never ends
