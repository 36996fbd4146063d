package handshake

import (
	"runtime"

	"golang.org/x/sys/cpu"
)

// A Suite is the AEAD that seals the link. The handshake itself always uses ChaCha20-Poly1305.
type Suite uint8

// The suites. AES256GCM is chosen only if both processors have instructions for it: without them it is
// slow, and in Go not constant in time.
const (
	ChaCha20Poly1305 Suite = iota
	AES256GCM
)

// String returns the suite's usual name.
func (s Suite) String() string {
	if s == AES256GCM {
		return "AES-256-GCM"
	}
	return "ChaCha20-Poly1305"
}

// hasAES reports whether this processor has instructions for both halves of AES-GCM.
func hasAES() bool {
	switch runtime.GOARCH {
	case "amd64":
		return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && cpu.X86.HasSSE41 && cpu.X86.HasSSSE3
	case "arm64":
		// x/sys/cpu does not look on Darwin; every Apple arm64 processor has them.
		return runtime.GOOS == "darwin" || runtime.GOOS == "ios" || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL
	case "s390x":
		return cpu.S390X.HasAES && cpu.S390X.HasAESCTR && cpu.S390X.HasGHASH
	case "ppc64", "ppc64le":
		return true // POWER8, the oldest that Go runs on, has them
	}
	return false
}
