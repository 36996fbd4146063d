package peer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"adit/internal/handshake"
)

// A peer of another version is named as that, whatever the step at which it showed.
func TestOtherVersion(t *testing.T) {
	for _, err := range []error{
		fmt.Errorf("open offer: %w", handshake.ErrVersion),
		failf(ClassSignal, "", fmt.Errorf("open offer: %w", handshake.ErrVersion), "this offer makes no sense"),
	} {
		var e *Error
		if got := classify(context.Background(), err); !errors.As(got, &e) || e.Class != ClassSignal || !strings.Contains(e.Message, "another version") {
			t.Errorf("got %v, want a sentence about the version", got)
		}
	}
}
