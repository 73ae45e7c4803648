package apiserver_test

import (
	"encoding/json"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestMethods asks with methods that a path does not have. What upstream answers
// was seen at kube-apiserver v1.37.2.
func TestMethods(t *testing.T) {
	h := start(t)
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"HEAD", "/api/v1/namespaces", 405}, {"HEAD", "/api/v1/namespaces/default", 405}, {"HEAD", "/api/v1/namespaces/default/pods/x/log", 405},
		{"HEAD", "/api", 405}, {"HEAD", "/api/v1", 405}, {"HEAD", "/apis/apps/v1", 405}, {"HEAD", "/version", 405},
		{"HEAD", "/apis", 200}, {"HEAD", "/apis/apps", 200}, {"HEAD", "/healthz", 200}, {"HEAD", "/metrics", 200}, {"HEAD", "/nope", 404}, {"HEAD", "/api/v1/nope", 404},
		{"OPTIONS", "/api/v1/namespaces", 405}, {"POST", "/version", 405}, {"POST", "/apis/apps/v1", 405},
		{"POST", "/api/v1/namespaces/default", 405}, {"POST", "/api/v1/namespaces/default/configmaps/x", 405}, {"PUT", "/api/v1/namespaces", 405},
	} {
		if got := h.call(c.method, c.path, "application/json", nil).Code; got != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, got, c.want)
		}
	}
}

// TestTimeouts asks for times that are none, too long and zero.
func TestTimeouts(t *testing.T) {
	h := start(t)
	for timeout, want := range map[string]int{"soon": 400, "5": 400, "3m": 200, "0s": 200, "1s": 200} {
		answer := h.call("GET", "/version?timeout="+timeout, "application/json", nil)
		if answer.Code != want || want == 400 && !strings.Contains(answer.Body.String(), "invalid timeout specified in the request URL") {
			t.Errorf("timeout=%s: %d %s", timeout, answer.Code, answer.Body)
		}
	}
}

// TestDeletedObjects deletes one of each sort: the answer is the object, or a
// Status.
func TestDeletedObjects(t *testing.T) {
	h := start(t)
	for path, body := range map[string]string{
		"/apis/storage.k8s.io/v1/storageclasses":                 `{"kind":"StorageClass","apiVersion":"storage.k8s.io/v1","metadata":{"name":"x"},"provisioner":"example.com/p"}`,
		"/apis/storage.k8s.io/v1/csidrivers":                     `{"kind":"CSIDriver","apiVersion":"storage.k8s.io/v1","metadata":{"name":"x"},"spec":{}}`,
		"/apis/resource.k8s.io/v1/deviceclasses":                 `{"kind":"DeviceClass","apiVersion":"resource.k8s.io/v1","metadata":{"name":"x"},"spec":{}}`,
		"/api/v1/namespaces/default/configmaps":                  `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"}}`,
		"/apis/scheduling.k8s.io/v1/priorityclasses":             `{"kind":"PriorityClass","apiVersion":"scheduling.k8s.io/v1","metadata":{"name":"x"},"value":1}`,
		"/apis/coordination.k8s.io/v1/namespaces/default/leases": `{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{"name":"x"},"spec":{}}`,
	} {
		if made := h.call("POST", path, "application/json", []byte(body)); made.Code != 201 {
			t.Fatalf("%s: %d %s", path, made.Code, made.Body)
		}
		var sent, got metav1.TypeMeta
		must(t, json.Unmarshal([]byte(body), &sent))
		answer := h.call("DELETE", path+"/x", "application/json", nil)
		must(t, json.Unmarshal(answer.Body.Bytes(), &got))
		want := "Status"
		if strings.Contains(path, "/storage.k8s.io/") || strings.Contains(path, "/resource.k8s.io/") {
			want = sent.Kind
		}
		if answer.Code != 200 || got.Kind != want {
			t.Errorf("deleting %s/x: %d %s, want a %s", path, answer.Code, got.Kind, want)
		}
	}
}

// TestServiceLevels reads the metric that upstream's service levels are defined
// by: requests count, dry runs do not.
func TestServiceLevels(t *testing.T) {
	h := start(t)
	h.call("GET", "/apis/apps/v1/deployments", "application/json", nil)
	h.call("POST", "/api/v1/namespaces/default/configmaps?dryRun=All", "application/json", []byte(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"}}`))
	text := h.call("GET", "/metrics", "", nil).Body.String()
	if !strings.Contains(text, `apiserver_request_sli_duration_seconds_count{component="apiserver",group="apps",resource="deployments",scope="cluster",subresource="",verb="LIST",version="v1"} 1`) {
		t.Error("no list of deployments among the service levels")
	}
	if strings.Contains(text, `apiserver_request_sli_duration_seconds_count{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="POST"`) {
		t.Error("a dry run is among the service levels")
	}
}
