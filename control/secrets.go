package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
)

// Resealed is what encrypting the Secrets on disk anew did.
type Resealed struct {
	// Key is the name of the key that seals now, Dropped of those that are gone.
	Key     string   `json:"key,omitempty"`
	Dropped []string `json:"dropped,omitempty"`
	// Rewritten counts the records; Resumed tells that an earlier rotation was
	// finished.
	Rewritten int  `json:"rewritten"`
	Resumed   bool `json:"resumed,omitempty"`
}

// Secrets asks the instance for one of "rotate-key" and "rewrite".
func (i Instance) Secrets(ctx context.Context, action string) (done Resealed, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://proa/secrets/"+action, nil)
	if err != nil {
		return done, err
	}
	resp, err := i.Client().Do(req)
	if err != nil {
		return done, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // a cut text still says something
		return done, errors.New(strings.TrimSpace(string(text)))
	}
	return done, json.NewDecoder(resp.Body).Decode(&done)
}
