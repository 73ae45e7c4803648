package volume

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/client"
	"proa/client/clienttest"
	"proa/kubelet/spec"
)

type objects struct {
	maps    map[string]*corev1.ConfigMap
	secrets map[string]*corev1.Secret
}

func (o objects) ConfigMap(_, name string) *corev1.ConfigMap { return o.maps[name] }
func (o objects) Secret(_, name string) *corev1.Secret       { return o.secrets[name] }
func (o objects) Services(string) []*corev1.Service          { return nil }

// issuer answers token requests with numbered tokens of a life.
type issuer struct {
	client.Client
	n    int
	life time.Duration
}

func (i *issuer) Post(_ context.Context, _ *api.Resource, _ client.Key, _ string, body client.Object) (client.Object, error) {
	i.n++
	req := body.(*authenticationv1.TokenRequest).DeepCopy()
	req.Status = authenticationv1.TokenRequestStatus{Token: fmt.Sprint("token", i.n), ExpirationTimestamp: metav1.NewTime(time.Now().Add(i.life))}
	return req, nil
}

func manager(t *testing.T) (*Manager, objects) {
	src := objects{map[string]*corev1.ConfigMap{}, map[string]*corev1.Secret{}}
	m := &Manager{Root: t.TempDir(), Client: clienttest.New(), Node: &spec.Node{Name: "n1"}, Sources: src}
	t.Cleanup(func() {
		for _, uid := range m.Pods() {
			if err := m.Teardown(uid); err != nil {
				t.Error(err)
			}
		}
	})
	return m, src
}

func podWith(vs ...corev1.VolumeSource) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u1", Labels: map[string]string{"a": "1"}}}
	for i, v := range vs {
		name := fmt.Sprint("v", i)
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: v})
		p.Spec.Containers = []corev1.Container{{Name: "app", VolumeMounts: []corev1.VolumeMount{{Name: name, MountPath: "/v"}}}}
	}
	return p
}

func setup(t *testing.T, m *Manager, p *corev1.Pod) {
	t.Helper()
	if _, err := m.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(b)
}

func TestConfigMapChangesAtOnce(t *testing.T) {
	m, src := manager(t)
	src.maps["cm"] = &corev1.ConfigMap{Data: map[string]string{"a": "1", "b": "1"}, BinaryData: map[string][]byte{"bin": {0, 1}}}
	p := podWith(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}})
	setup(t, m, p)
	dir := filepath.Join(m.Dir("u1"), "volumes/kubernetes.io~configmap/v0")
	if read(t, dir+"/a") != "1" || read(t, dir+"/bin") != "\x00\x01" {
		t.Error("content", read(t, dir+"/a"))
	}
	first, _ := os.Readlink(dir + "/..data")
	setup(t, m, p)
	if again, _ := os.Readlink(dir + "/..data"); again != first {
		t.Error("files were written again though nothing changed")
	}
	held, err := os.OpenFile(dir+"/..data", os.O_RDONLY, 0) // a reader in the middle of reading
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	src.maps["cm"] = &corev1.ConfigMap{Data: map[string]string{"a": "2", "c": "2"}}
	setup(t, m, p)
	if read(t, dir+"/a") != "2" || read(t, dir+"/c") != "2" {
		t.Error("the change does not show")
	}
	for _, name := range []string{"b", "bin", first} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s is left", name)
		}
	}
}

func TestItemsModesAndOptional(t *testing.T) {
	m, src := manager(t)
	mode, def, yes := int32(0o400), int32(0o640), true
	src.secrets["s"] = &corev1.Secret{Data: map[string][]byte{"k": []byte("v")}}
	p := podWith(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: &def, Items: []corev1.KeyToPath{{Key: "k", Path: "deep/er/x", Mode: &mode}, {Key: "k", Path: "y"}}}},
		corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "gone", Optional: &yes}})
	setup(t, m, p)
	dir := filepath.Join(m.Dir("u1"), "volumes/kubernetes.io~secret/v0")
	for name, want := range map[string]fs.FileMode{"deep/er/x": 0o400, "y": 0o640} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil || st.Type != 0x01021994 {
		t.Error("a secret is not on tmpfs", st.Type, err)
	}
	p.Spec.Volumes[0].Secret.Items[0].Key = "nokey"
	if _, err := m.Setup(t.Context(), p); err == nil || !strings.Contains(err.Error(), `MountVolume.SetUp failed for volume "v0" : references non-existent config key: nokey`) {
		t.Error(err)
	}
}

func TestProjectedAndTokens(t *testing.T) {
	m, src := manager(t)
	is := &issuer{Client: m.Client, life: time.Hour}
	m.Client = is
	src.maps["kube-root-ca.crt"] = &corev1.ConfigMap{Data: map[string]string{"ca.crt": "CA"}}
	seconds := int64(3607)
	p := podWith(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}},
			{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
	}}})
	renew, err := m.Setup(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(renew); left < 47*time.Minute || left > 49*time.Minute {
		t.Errorf("the token is renewed in %v, want 80 %% of its hour", left)
	}
	dir := filepath.Join(m.Dir("u1"), "volumes/kubernetes.io~projected/v0")
	for name, want := range map[string]string{"token": "token1", "ca.crt": "CA", "namespace": "ns", "labels": `a="1"`} {
		if got := read(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	setup(t, m, p)
	if is.n != 1 {
		t.Errorf("%d tokens were asked for", is.n)
	}
	m.tokens[tokenKey{"u1", "v0", "token"}].renew = time.Now().Add(-time.Second)
	setup(t, m, p)
	if got := read(t, filepath.Join(dir, "token")); got != "token2" {
		t.Errorf("after it was due the token is %q", got)
	}
}

func TestEmptyDirAndGroup(t *testing.T) {
	m, _ := manager(t)
	size, gid := resource.MustParse("1Mi"), int64(4242)
	p := podWith(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &size}})
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &gid}
	setup(t, m, p)
	dir := filepath.Join(m.Dir("u1"), "volumes/kubernetes.io~empty-dir/v0")
	info, err := os.Stat(dir)
	if err != nil || info.Sys().(*syscall.Stat_t).Gid != 4242 || info.Mode()&fs.ModeSetgid == 0 {
		t.Errorf("%v %v", info, err)
	}
	if err := os.WriteFile(dir+"/big", make([]byte, 2<<20), 0o644); err == nil {
		t.Error("more than the size limit fits")
	}
	if err := m.Teardown("u1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(m.Dir("u1")); !os.IsNotExist(err) {
		t.Error("the pod's directory is left", err)
	}
	if err := m.Teardown("u1"); err != nil {
		t.Error("a second teardown:", err)
	}
}

func TestHostPathTypes(t *testing.T) {
	m, _ := manager(t)
	dir := t.TempDir()
	check := func(path string, typ corev1.HostPathType) error {
		_, err := m.Setup(t.Context(), podWith(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &typ}}))
		return err
	}
	for _, ok := range []error{check(dir, corev1.HostPathDirectory), check(dir+"/new/dir", corev1.HostPathDirectoryOrCreate), check(dir+"/file", corev1.HostPathFileOrCreate),
		check(dir+"/file", corev1.HostPathFile), check("/dev/null", corev1.HostPathCharDev), check(dir+"/no", corev1.HostPathUnset)} {
		if ok != nil {
			t.Error(ok)
		}
	}
	if err := check(dir+"/file", corev1.HostPathDirectory); err == nil || !strings.Contains(err.Error(), "hostPath type check failed: "+dir+"/file is not a directory") {
		t.Error(err)
	}
	if err := check(dir+"/no", corev1.HostPathSocket); err == nil {
		t.Error("no error for a missing socket")
	}
}

func TestSubPath(t *testing.T) {
	m, _ := manager(t)
	p := podWith(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
	setup(t, m, p)
	vol := filepath.Join(m.Dir("u1"), "volumes/kubernetes.io~empty-dir/v0")
	mount := func(sub string) (string, error) {
		p.Spec.Containers[0].VolumeMounts[0].SubPath = sub
		got, err := m.Mounts(t.Context(), p, &p.Spec.Containers[0], nil)
		if err != nil {
			return "", err
		}
		return got[0].HostPath, nil
	}
	host, err := mount("a/b")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(host+"/x", []byte("1"), 0o644); err != nil || read(t, vol+"/a/b/x") != "1" {
		t.Error("the mount does not lead into the volume", err)
	}
	if info, err := os.Stat(vol + "/a/b"); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("a directory that was made has not the volume's mode: %v %v", info.Mode(), err)
	}
	if host, err = mount("a/b/x"); err != nil || read(t, host) != "1" {
		t.Error("a file as subPath:", err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("outside"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"abs": filepath.Dir(secret), "file": secret, "up": "../../../../..", "a/in": "../../../..", "proc": "/proc/self/root"} {
		if err := os.Symlink(to, filepath.Join(vol, name)); err != nil {
			t.Fatal(err)
		}
		for _, sub := range []string{name, name + "/etc", name + "/new/dir"} {
			if host, err := mount(sub); err == nil {
				t.Errorf("subPath %s through a link to %s leads to %s", sub, to, host)
			}
		}
	}
	if _, err := mount("../x"); err == nil {
		t.Error("subPath ../x is taken")
	}
	if err := os.Symlink("b", filepath.Join(vol, "a", "inner")); err != nil {
		t.Fatal(err)
	}
	if host, err := mount("a/inner"); err != nil || read(t, host+"/x") != "1" {
		t.Error("a link within the volume:", err)
	}
	p.Spec.Containers[0].VolumeMounts[0].SubPath, p.Spec.Containers[0].VolumeMounts[0].SubPathExpr = "", "$(POD)/logs"
	if _, err := m.Mounts(t.Context(), p, &p.Spec.Containers[0], map[string]string{"POD": "p"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(vol + "/p/logs"); err != nil {
		t.Error(err)
	}
}

func TestClaims(t *testing.T) {
	dir := t.TempDir()
	m, _ := manager(t)
	c := clienttest.New()
	m.Client = c
	p := podWith(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}})
	if _, err := m.Setup(t.Context(), p); err == nil || !strings.Contains(err.Error(), `persistentvolumeclaims "data" not found`) {
		t.Error(err)
	}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "c1"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}}
	c.Inject(claim.DeepCopy())
	if _, err := m.Setup(t.Context(), p); err == nil || !strings.Contains(err.Error(), "PVC ns/data is not bound") {
		t.Error(err)
	}
	claim.Status.Phase = corev1.ClaimBound
	c.Inject(claim)
	c.Inject(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{UID: "c1"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}}}})
	setup(t, m, p)
	if got, err := m.Mounts(t.Context(), p, &p.Spec.Containers[0], nil); err != nil || got[0].HostPath != dir {
		t.Errorf("%v %v", got, err)
	}
}
