package punch

import (
	"errors"
	"net"

	"github.com/pion/transport/v2"
)

// errSealed is what pion/ice would get if it tried to use the network past the mux.
var errSealed = errors.New("the ice agent has no network of its own")

// sealedNet is the network that pion/ice sees: no interfaces, no sockets, no names. Its only way
// out is the mux, so that a peer cannot make it open connections or resolve names.
type sealedNet struct{}

var _ transport.Net = sealedNet{}

func (sealedNet) ListenPacket(string, string) (net.PacketConn, error)       { return nil, errSealed }
func (sealedNet) ListenUDP(string, *net.UDPAddr) (transport.UDPConn, error) { return nil, errSealed }
func (sealedNet) ListenTCP(string, *net.TCPAddr) (transport.TCPListener, error) {
	return nil, errSealed
}
func (sealedNet) Dial(string, string) (net.Conn, error) { return nil, errSealed }
func (sealedNet) DialUDP(_ string, _, _ *net.UDPAddr) (transport.UDPConn, error) {
	return nil, errSealed
}
func (sealedNet) DialTCP(_ string, _, _ *net.TCPAddr) (transport.TCPConn, error) {
	return nil, errSealed
}
func (sealedNet) ResolveIPAddr(string, string) (*net.IPAddr, error)    { return nil, errSealed }
func (sealedNet) ResolveUDPAddr(string, string) (*net.UDPAddr, error)  { return nil, errSealed }
func (sealedNet) ResolveTCPAddr(string, string) (*net.TCPAddr, error)  { return nil, errSealed }
func (sealedNet) Interfaces() ([]*transport.Interface, error)          { return nil, nil }
func (sealedNet) InterfaceByIndex(int) (*transport.Interface, error)   { return nil, errSealed }
func (sealedNet) InterfaceByName(string) (*transport.Interface, error) { return nil, errSealed }
func (sealedNet) CreateDialer(*net.Dialer) transport.Dialer            { return sealedDialer{} }

type sealedDialer struct{}

func (sealedDialer) Dial(string, string) (net.Conn, error) { return nil, errSealed }
