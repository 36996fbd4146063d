package carry

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
)

// WebSocket frames (RFC 6455 §5.2). Messages are binary and whole: no fragments, no extensions.
const (
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10

	maxFrameHeader = 14
)

var errFrame = errors.New("not a WebSocket frame that is expected here")

// acceptKey answers a Sec-WebSocket-Key (RFC 6455 §4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// appendFrame appends one frame; those of a client are masked (§5.3).
func appendFrame(b []byte, opcode byte, payload []byte, mask bool) []byte {
	b = append(b, 0x80|opcode)
	bit := byte(0)
	if mask {
		bit = 0x80
	}
	if n := len(payload); n < 126 {
		b = append(b, bit|byte(n))
	} else { // a message has less than 64 KiB
		b = append(b, bit|126)
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	}
	if !mask {
		return append(b, payload...)
	}
	var key [4]byte
	rand.Read(key[:])
	b = append(b, key[:]...)
	start := len(b)
	b = append(b, payload...)
	unmask(b[start:], key)
	return b
}

func unmask(b []byte, key [4]byte) {
	k := uint64(binary.LittleEndian.Uint32(key[:]))
	k |= k << 32
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^k)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= key[i&3]
	}
}

// readFrame reads the next frame into buf. masked says what the other side must do.
func readFrame(r *bufio.Reader, buf []byte, masked bool) (opcode byte, payload []byte, err error) {
	var h [8]byte
	if _, err := io.ReadFull(r, h[:2]); err != nil {
		return 0, nil, err
	}
	opcode = h[0] & 15
	if h[0]&0xf0 != 0x80 || (h[1]&0x80 != 0) != masked {
		return 0, nil, errFrame
	}
	n := int(h[1] & 0x7f)
	switch n {
	case 126:
		if _, err := io.ReadFull(r, h[:2]); err != nil {
			return 0, nil, err
		}
		n = int(binary.BigEndian.Uint16(h[:]))
	case 127:
		return 0, nil, errFrame // longer than any message
	}
	if n > len(buf) || opcode >= opClose && n > 125 {
		return 0, nil, errFrame
	}
	var key [4]byte
	if masked {
		if _, err := io.ReadFull(r, key[:]); err != nil {
			return 0, nil, err
		}
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return 0, nil, err
	}
	if masked {
		unmask(buf[:n], key)
	}
	return opcode, buf[:n], nil
}

// read hands the binary messages of a connection to got until it ends.
func read(r *bufio.Reader, w *writer, masked bool, got func(message []byte)) error {
	buf := make([]byte, maxMessage)
	for {
		opcode, p, err := readFrame(r, buf, masked)
		switch {
		case err != nil:
			return err
		case opcode == opBinary:
			got(p)
		case opcode == opPing:
			_ = w.frame(opPong, p) // dropped with everything else if the connection is full
		case opcode == opClose:
			return io.EOF
		}
	}
}
