package kubelet

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/kubelet/lifecycle"
	"proa/kubelet/volume"
)

// pull brings the image of one start, as the container's pull policy says.
func (w *worker) pull(pod *corev1.Pod, a lifecycle.Action) {
	name, image := a.Container.Name, a.Container.Image
	st := w.st.Images[name]
	if st.Name != image {
		st = lifecycle.Image{Name: image}
	}
	st.Busy, st.Done, st.Attempt = true, false, a.Attempt
	w.st.Images[name] = st
	w.k.effects.Go(func() {
		ref, err := w.bring(pod, a.Container)
		w.post(func(w *worker) { w.pulled(name, image, ref, err) })
	})
}

func (w *worker) pulled(name, image, ref string, err error) {
	st := w.st.Images[name]
	if st.Name != image {
		return
	}
	if err == nil {
		st.Step, st.Ref = lifecycle.Step{Done: true}, ref
	} else {
		reason := lifecycle.ReasonPullFailed
		if s, ok := err.(*startError); ok {
			reason = s.reason
		}
		st.Step = st.Step.Fail(time.Now(), pullFirst, pullLimit, reason, plain(err))
	}
	w.st.Images[name] = st
}

// bring returns the runtime's reference of the image once it is on the node.
func (w *worker) bring(pod *corev1.Pod, c *corev1.Container) (string, error) {
	named, err := reference.ParseNormalizedNamed(c.Image)
	if err != nil {
		err = &startError{"InvalidImageName", fmt.Errorf("Failed to apply default image tag %q: couldn't parse image name %q: %v", c.Image, c.Image, err)}
		w.k.container(pod, c, corev1.EventTypeWarning, "InspectFailed", err.Error())
		w.k.container(pod, c, corev1.EventTypeWarning, "Failed", "Error: InvalidImageName")
		return "", err
	}
	image := &cri.ImageSpec{Image: c.Image, UserSpecifiedImage: c.Image}
	if _, tagged := named.(reference.Tagged); !tagged {
		if _, digested := named.(reference.Digested); !digested {
			image.Image += ":latest"
		}
	}
	if c.ImagePullPolicy != corev1.PullAlways {
		got, err := w.k.cfg.Images.ImageStatus(w.live, image, false)
		if err == nil && got.GetImage() != nil {
			w.k.container(pod, c, corev1.EventTypeNormal, "Pulled",
				fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", c.Image))
			return got.Image.Id, nil
		}
	}
	if c.ImagePullPolicy == corev1.PullNever {
		err := &startError{"ErrImageNeverPull", fmt.Errorf("Container image %q is not present with pull policy of Never", c.Image)}
		w.k.container(pod, c, corev1.EventTypeWarning, "ErrImageNeverPull", err.Error())
		w.k.container(pod, c, corev1.EventTypeWarning, "Failed", "Error: ErrImageNeverPull")
		return "", err
	}
	return w.fetch(pod, c, image)
}

func (w *worker) fetch(pod *corev1.Pod, c *corev1.Container, image *cri.ImageSpec) (string, error) {
	begun := time.Now()
	w.k.container(pod, c, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", c.Image))
	ref, waited, err := w.k.images.pull(w.live, w.k, image, w.credentials(pod, c.Image))
	if err != nil {
		if w.live.Err() == nil {
			w.k.container(pod, c, corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %s", c.Image, plain(err)))
			w.k.container(pod, c, corev1.EventTypeWarning, "Failed", "Error: ErrImagePull")
		}
		return "", err
	}
	size := uint64(0)
	if got, err := w.k.cfg.Images.ImageStatus(w.live, &cri.ImageSpec{Image: ref}, false); err == nil {
		size = got.GetImage().GetSize()
		w.k.recordPull(got.GetImage().GetId())
	}
	total := time.Since(begun).Truncate(time.Millisecond)
	w.k.container(pod, c, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		c.Image, total-waited.Truncate(time.Millisecond), total, size))
	w.k.renewNode()
	return ref, nil
}

// volumeImages brings the images that are mounted as volumes.
func (w *worker) volumeImages(pod *corev1.Pod) error {
	for i := range pod.Spec.Volumes {
		v := pod.Spec.Volumes[i].Image
		if v == nil {
			continue
		}
		if _, err := w.bring(pod, &corev1.Container{Name: pod.Spec.Volumes[i].Name, Image: v.Reference, ImagePullPolicy: v.PullPolicy}); err != nil {
			return &volume.Error{Volume: pod.Spec.Volumes[i].Name, Err: err}
		}
	}
	return nil
}

// pulls lets one pull of an image without credentials of its own serve everybody
// who waits for it; it ends early when nobody waits any more.
type pulls struct {
	mu  sync.Mutex
	now map[string]*onePull
}

type onePull struct {
	waiting int // guarded by pulls.mu
	cancel  context.CancelFunc
	done    chan struct{}
	ref     string
	err     error
}

func (p *pulls) pull(ctx context.Context, k *Kubelet, image *cri.ImageSpec, auths []*cri.AuthConfig) (ref string, waited time.Duration, err error) {
	if len(auths) > 0 {
		for _, auth := range auths {
			if ref, err = k.cfg.Images.PullImage(ctx, image, auth, nil); err == nil {
				return ref, 0, nil
			}
		}
		return "", 0, err
	}
	begun := time.Now()
	one, mine := p.join(ctx, k, image)
	defer p.leave(image.Image, one)
	select {
	case <-ctx.Done():
		return "", 0, ctx.Err()
	case <-one.done:
	}
	if !mine {
		waited = time.Since(begun)
	}
	return one.ref, waited, one.err
}

// join finds the pull of the image that is under way, or begins one.
func (p *pulls) join(ctx context.Context, k *Kubelet, image *cri.ImageSpec) (one *onePull, mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one := p.now[image.Image]; one != nil {
		one.waiting++
		return one, false
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	one = &onePull{waiting: 1, cancel: cancel, done: make(chan struct{})}
	if p.now == nil {
		p.now = map[string]*onePull{}
	}
	p.now[image.Image] = one
	k.effects.Go(func() {
		one.ref, one.err = k.cfg.Images.PullImage(ctx, image, nil, nil)
		p.mu.Lock()
		p.forget(image.Image, one)
		p.mu.Unlock()
		close(one.done)
	})
	return one, true
}

func (p *pulls) leave(image string, one *onePull) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one.waiting--; one.waiting == 0 {
		one.cancel()
		p.forget(image, one) // who comes now begins anew
	}
}

func (p *pulls) forget(image string, one *onePull) {
	if p.now[image] == one {
		delete(p.now, image)
	}
}

// credentials are those of the pod's imagePullSecrets that are for the image's
// registry, the most specific first.
func (w *worker) credentials(pod *corev1.Pod, image string) []*cri.AuthConfig {
	if len(pod.Spec.ImagePullSecrets) == 0 {
		return nil
	}
	w.k.refs.wait(w.live, pod)
	src := sources{w.k.cfg.Client}
	var secrets []*corev1.Secret
	for _, ref := range pod.Spec.ImagePullSecrets {
		s := src.Secret(pod.Namespace, ref.Name)
		if s == nil {
			w.k.events.Event(pod, corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name))
			continue
		}
		secrets = append(secrets, s)
	}
	return matching(secrets, image)
}

// dockerAuth is one entry of a Docker configuration file.
type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

// matching finds the entries whose registry, and path below it if it has one, the
// image lies in.
func matching(secrets []*corev1.Secret, image string) []*cri.AuthConfig {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil
	}
	var out []*cri.AuthConfig
	best := -1
	for _, s := range secrets {
		for host, a := range entries(s) {
			place := registry(host)
			if named.Name() != place && !strings.HasPrefix(named.Name(), place+"/") {
				continue
			}
			if len(place) > best {
				best = len(place)
				out = append([]*cri.AuthConfig{a.cri(host)}, out...)
			} else {
				out = append(out, a.cri(host))
			}
		}
	}
	return out
}

func entries(s *corev1.Secret) map[string]dockerAuth {
	var file struct {
		Auths map[string]dockerAuth `json:"auths"`
	}
	if data, ok := s.Data[corev1.DockerConfigJsonKey]; ok && json.Unmarshal(data, &file) == nil {
		return file.Auths
	}
	var old map[string]dockerAuth
	if data, ok := s.Data[corev1.DockerConfigKey]; ok && json.Unmarshal(data, &old) == nil {
		return old
	}
	return nil
}

// registry brings a Docker configuration's key into the form that image names
// begin with.
func registry(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(key, "/"), "/v1"), "/v2")
	if key == "index.docker.io" || key == "registry-1.docker.io" {
		return "docker.io"
	}
	return key
}

func (a dockerAuth) cri(host string) *cri.AuthConfig {
	out := &cri.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, ServerAddress: host}
	if out.Username == "" && a.Auth != "" {
		if plain, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
			out.Username, out.Password, _ = strings.Cut(string(plain), ":")
		}
	}
	return out
}
