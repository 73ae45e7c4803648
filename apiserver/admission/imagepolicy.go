package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	imagepolicyv1alpha1 "k8s.io/api/imagepolicy/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"sigs.k8s.io/yaml"

	"proa/auth/structured"
)

// imagePolicy is a webhook that judges the images of pods.
type imagePolicy struct {
	webhook     *structured.Webhook
	allow, deny time.Duration // for which its answers are good
	open        bool          // what it cannot be asked about is allowed
}

const (
	imagePolicyTimeout = 30 * time.Second
	imagePolicyAnswers = 1024
	// imagePolicyAudit begins the audit annotations, imagePolicyOpen marks pods
	// that were allowed because the webhook could not be asked.
	imagePolicyAudit = "imagepolicywebhook.image-policy.k8s.io/"
	imagePolicyOpen  = "alpha.image-policy.k8s.io/failed-open"
)

func (s *settings) readImagePolicy(data []byte) error {
	var conf struct {
		ImagePolicy struct {
			KubeConfigFile string `json:"kubeConfigFile"`
			AllowTTL       int64  `json:"allowTTL"`     // seconds
			DenyTTL        int64  `json:"denyTTL"`      // seconds
			RetryBackoff   int64  `json:"retryBackoff"` // milliseconds; the webhook is tried as others are
			DefaultAllow   bool   `json:"defaultAllow"`
		} `json:"imagePolicy"`
	}
	if err := yaml.UnmarshalStrict(data, &conf); err != nil {
		return err
	}
	c := conf.ImagePolicy
	allow, err := imagePolicyTTL(c.AllowTTL, 5*time.Minute)
	deny, derr := imagePolicyTTL(c.DenyTTL, 30*time.Second)
	if err = errors.Join(err, derr); err != nil {
		return err
	}
	w, err := structured.NewWebhook(c.KubeConfigFile, imagePolicyTimeout)
	s.images = &imagePolicy{webhook: w, allow: allow, deny: deny, open: c.DefaultAllow}
	return err
}

// imagePolicyTTL reads seconds: -1 remembers nothing, 0 is the usual.
func imagePolicyTTL(seconds int64, usual time.Duration) (time.Duration, error) {
	const most = 30 * 60
	switch {
	case seconds == -1:
		return 0, nil
	case seconds == 0:
		return usual, nil
	case seconds < 0 || seconds > most:
		return 0, fmt.Errorf("valid value is between 1s and 30m0s, got %ds", seconds)
	}
	return time.Duration(seconds) * time.Second, nil
}

// imagePolicyWebhook asks a webhook whether a pod's images may run. It is off
// unless asked for.
func imagePolicyWebhook(conf *imagePolicy) Plugin {
	p := Plugin{Name: "ImagePolicyWebhook"}
	if conf == nil {
		p.broken = errors.New("no config specified")
		return p
	}
	answers := cache.NewLRUExpireCache(imagePolicyAnswers)
	p.Validate = func(ctx context.Context, r *Request) error {
		pod, ok := r.Object.(*corev1.Pod)
		if !ok || r.Op != Create && r.Op != Update || !r.Is("pods") && !r.Is("pods", "ephemeralcontainers") {
			return nil
		}
		if err := conf.judge(ctx, r, pod, answers); err != nil {
			return r.Forbidden(err)
		}
		return nil
	}
	return p
}

func (p *imagePolicy) judge(ctx context.Context, r *Request, pod *corev1.Pod, answers *cache.LRUExpireCache) error {
	spec := imagesOf(r, pod)
	key, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	status, known := answers.Get(string(key))
	if !known {
		review := &imagepolicyv1alpha1.ImageReview{
			TypeMeta: metav1.TypeMeta{APIVersion: imagepolicyv1alpha1.SchemeGroupVersion.String(), Kind: "ImageReview"}, Spec: spec}
		var got imagepolicyv1alpha1.ImageReview
		if err := p.webhook.Ask(ctx, review, &got); err != nil {
			return p.unasked(r, pod, err)
		}
		status = got.Status
		if life := p.life(got.Status.Allowed); life > 0 {
			answers.Add(string(key), got.Status, life)
		}
	}
	s := status.(imagepolicyv1alpha1.ImageReviewStatus)
	for k, v := range s.AuditAnnotations {
		r.note(imagePolicyAudit+k, v)
	}
	switch {
	case s.Allowed:
		return nil
	case s.Reason != "":
		return fmt.Errorf("image policy webhook backend denied one or more images: %s", s.Reason)
	}
	return errors.New("one or more images rejected by webhook backend")
}

func (p *imagePolicy) life(allowed bool) time.Duration {
	if allowed {
		return p.allow
	}
	return p.deny
}

// unasked is what becomes of a pod when there is no answer.
func (p *imagePolicy) unasked(r *Request, pod *corev1.Pod, err error) error {
	if !p.open {
		return err
	}
	r.note(imagePolicyAudit+"failed-open", "true")
	metav1.SetMetaDataAnnotation(&pod.ObjectMeta, imagePolicyOpen, "true")
	return nil
}

// imagesOf is what the webhook is told.
func imagesOf(r *Request, pod *corev1.Pod) imagepolicyv1alpha1.ImageReviewSpec {
	spec := imagepolicyv1alpha1.ImageReviewSpec{Namespace: r.Namespace, Annotations: map[string]string{}}
	add := func(image string) {
		spec.Containers = append(spec.Containers, imagepolicyv1alpha1.ImageReviewContainerSpec{Image: image})
	}
	if r.Subresource == "" {
		for _, c := range pod.Spec.Containers {
			add(c.Image)
		}
		for _, c := range pod.Spec.InitContainers {
			add(c.Image)
		}
	} else {
		for _, c := range pod.Spec.EphemeralContainers {
			add(c.Image)
		}
	}
	for k, v := range pod.Annotations {
		if strings.Contains(k, ".image-policy.k8s.io/") {
			spec.Annotations[k] = v
		}
	}
	return spec
}
