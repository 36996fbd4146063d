//go:build !linux

package doctor

import (
	"context"
	"net/netip"
)

// carrierHop cannot tell here: routers' complaints are for privileged programs.
func carrierHop(context.Context, netip.AddrPort) string { return "" }
