package structured

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/auth"
)

const (
	tokenWebhookTimeout = 10 * time.Second
	// tokenLife is how long a webhook's answer about a token is believed.
	tokenLife = 2 * time.Minute
)

// TokenWebhook asks a webhook whose a token is (TokenReview of
// authentication.k8s.io/v1). A token that it does not know may be another's.
type TokenWebhook struct {
	remote    *Webhook
	audiences []string
	answers   *answers[authenticationv1.TokenReviewStatus]
}

// NewTokenWebhook reads the kubeconfig file that leads to the webhook. audiences
// are the API's own.
func NewTokenWebhook(kubeconfig string, audiences ...string) (*TokenWebhook, error) {
	r, err := NewWebhook(kubeconfig, tokenWebhookTimeout)
	return &TokenWebhook{r, audiences, newAnswers[authenticationv1.TokenReviewStatus](time.Now)}, err
}

// Review implements auth.TokenReviewer.
func (w *TokenWebhook) Review(ctx context.Context, token string, asked []string) (auth.User, []string, error) {
	if len(asked) == 0 {
		asked = w.audiences
	}
	key := sha256.Sum256([]byte(strings.Join(append([]string{token}, asked...), "\x00")))
	s, ok := w.answers.get(key)
	if !ok {
		review := &authenticationv1.TokenReview{
			TypeMeta: metav1.TypeMeta{APIVersion: authenticationv1.SchemeGroupVersion.String(), Kind: "TokenReview"},
			Spec:     authenticationv1.TokenReviewSpec{Token: token, Audiences: asked},
		}
		var got authenticationv1.TokenReview
		if err := w.remote.Ask(ctx, review, &got); err != nil {
			return auth.User{}, nil, fmt.Errorf("token webhook: %w", err)
		}
		s = got.Status
		w.answers.put(key, s, tokenLife)
	}
	return w.read(s, asked)
}

func (w *TokenWebhook) read(s authenticationv1.TokenReviewStatus, asked []string) (u auth.User, good []string, err error) {
	if !s.Authenticated {
		if s.Error != "" {
			return u, nil, errors.New(s.Error)
		}
		return u, nil, auth.ErrNotOurs
	}
	good = s.Audiences
	if len(good) == 0 { // it knows nothing of audiences, so the API's are meant
		good = w.audiences
	}
	good = slices.DeleteFunc(slices.Clone(good), func(a string) bool { return !slices.Contains(asked, a) })
	if len(good) == 0 {
		return u, nil, auth.ErrNotOurs
	}
	u = auth.User{Name: s.User.Username, UID: s.User.UID, Groups: s.User.Groups}
	for k, v := range s.User.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[k] = v
	}
	return u, good, nil
}
