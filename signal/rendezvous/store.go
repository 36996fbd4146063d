package rendezvous

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// Errors of a Store. The server turns each into one HTTP status.
var (
	ErrNameplateTaken = errors.New("nameplate is in use")              // Create: try another
	ErrFull           = errors.New("store is full")                    // Create, Put: 503
	ErrNoRoom         = errors.New("no such room")                     // 404
	ErrRoomTaken      = errors.New("room has its two peers")           // Join: 409
	ErrToken          = errors.New("token is not one of the room's")   // 401
	ErrPeerGone       = errors.New("the other side left")              // 410
	ErrConflict       = errors.New("message number is taken or early") // Put: 409
	ErrTooMany        = errors.New("side has sent all it may")         // Put: 403
)

// A Room is what a Store is asked to keep.
type Room struct {
	Nameplate string // digits; empty for a room that nobody can join: Joiner is in it already
	ID        string
	Token     string     // the creator's
	Joiner    string     // the joiner's token, empty if the joiner is still to come
	Expires   time.Time  // a store may round it up to a whole second
	First     []byte     // the creator's message 0, or nil if it comes later
	From      netip.Addr // whose share of the store it takes: the creator's
}

// A Ticket is what a joiner is given.
type Ticket struct {
	ID      string
	Token   string // the joiner's: the one it came with at its first attempt
	Expires time.Time
	First   []byte // the creator's message 0, or nil if it is not there yet; not to be modified
}

// A Place is what a Store knows of a side of a room.
type Place struct {
	Side    int  // 0 is the creator's
	Both    bool // both peers are in the room
	Expires time.Time
}

// A Store keeps rooms and their messages until they expire. Each room has two sides, told apart by
// their tokens; the messages of a side are numbered from 0 without gaps. All methods may be called at
// once from any goroutine. Messages are retained as they are: neither side modifies them afterwards.
type Store interface {
	// Create keeps a new room. It returns ErrNameplateTaken if the nameplate is still in use. Where there is no
	// space, the network that takes the most gives up its oldest room; it returns ErrFull if that is the room's own.
	Create(ctx context.Context, r Room) error

	// Join lets one joiner in. The same token again returns the same ticket, so that a joiner that
	// lost the reply can ask once more. It returns ErrNoRoom, or ErrRoomTaken for anybody else.
	Join(ctx context.Context, nameplate, token string) (Ticket, error)

	// Put keeps message seq of the side that holds token; the same message again is no error. It
	// returns ErrNoRoom, ErrToken, ErrPeerGone, ErrConflict, ErrTooMany or ErrFull.
	Put(ctx context.Context, id, token string, seq int, message []byte) error

	// Get returns message seq of the other side. If it is not there yet the message is nil and the
	// channel is closed at the room's next change. It returns ErrNoRoom, ErrToken, or ErrPeerGone if
	// the other side left without sending so many.
	Get(ctx context.Context, id, token string, seq int) ([]byte, <-chan struct{}, error)

	// Place tells the side that holds token about its room. It returns ErrNoRoom or ErrToken, and
	// ErrPeerGone if the other side left.
	Place(ctx context.Context, id, token string) (Place, error)

	// Leave ends one side of a room; once both have left, or if nobody ever joined, its messages are
	// forgotten. The nameplate of a room that was used stays taken until the room expires.
	Leave(ctx context.Context, id, token string) error

	// Rooms returns how many nameplates are in use, those of used rooms included.
	Rooms(ctx context.Context) (int, error)
}
