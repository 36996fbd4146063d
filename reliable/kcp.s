// This file lets flush in kcp.go have no body.
