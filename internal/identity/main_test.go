package identity

import (
	"testing"

	"adit/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
