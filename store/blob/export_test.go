package blob

import (
	"context"
	"time"
)

// OpenURLTimed is OpenURL with other waits: the first between two tries, and how long a connection may make no progress.
func OpenURLTimed(ctx context.Context, url string, opt Options, unit, idle time.Duration) (Store, error) {
	return openURL(ctx, url, opt, timing{unit: unit, idle: idle})
}

// IncomingName is the folder of what has no name yet.
const IncomingName = incomingName
